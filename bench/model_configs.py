"""The models of `bench.models`: their published configurations, written down, for random weights.

What is not named has the default of Transformers' configuration class. Nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

DEFAULT_ROPE = {"rope_type": "default"}


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """family: a model type of Transformers. config: of the text model.

    peers: the name under which a library of patches knows it, by library; missing is unknown.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    peers: Mapping[str, str]

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        found = self.config.get("head_dim")
        return int(found or self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def layers(self) -> int:
        """Of the whole model."""
        return int(self.config["num_hidden_layers"])

    def made(self, layers: int, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
        """The model with its first layers and random weights, in evaluation mode.

        device "meta": without weights.
        """
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        with torch.device(device):
            made = AutoModelForCausalLM.from_config(
                self.configuration(layers), dtype=dtype, attn_implementation=self.attention
            )
        return made.eval()

    @property
    def attention(self) -> str:
        """Transformers' implementation: GPT-OSS's sinks have none in SDPA."""
        return "eager" if self.family == "gpt_oss" else "sdpa"

    def configuration(self, layers: int) -> Any:
        """Transformers' own."""
        from transformers import AutoConfig

        given = {**self.config, "num_hidden_layers": layers}
        if "layer_types" in given:
            given["layer_types"] = list(given["layer_types"])[:layers]
        return AutoConfig.for_model(self.family, **given)


def gemma_layers(count: int) -> tuple[str, ...]:
    """Every sixth sees everything."""
    return tuple("sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(count))


def peers(name: str, tilegym: str | None = None) -> dict[str, str]:
    """Known to Liger under that name; to TileGym under the same or another, "" for not at all."""
    found = {"liger": name, "tilegym": name if tilegym is None else tilegym}
    return {library: known for library, known in found.items() if known}


LLAMA = Model(
    "Llama-3.1-8B",
    "llama",
    {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    peers("llama"),
)
QWEN = Model(
    "Qwen3-8B",
    "qwen3",
    {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": {**DEFAULT_ROPE, "rope_theta": 1000000.0},
    },
    peers("qwen3", tilegym=""),  # TileGym's function of that name is for Qwen3.5
)
GEMMA = Model(
    "Gemma-3-4B",
    "gemma3_text",
    {
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 1024,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "layer_types": gemma_layers(34),
    },
    peers("gemma3_text", tilegym="gemma3"),
)
MISTRAL = Model(
    "Mistral-7B",
    "mistral",
    {
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "rope_parameters": {**DEFAULT_ROPE, "rope_theta": 1000000.0},
    },
    peers("mistral"),
)
PHI = Model(
    "Phi-3-mini",
    "phi3",
    {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "rope_parameters": {**DEFAULT_ROPE, "rope_theta": 10000.0},
    },
    peers("phi3"),
)
GPT_OSS = Model(
    "GPT-OSS-20B",
    "gpt_oss",
    {
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "sliding_window": 128,
        "tie_word_embeddings": False,
    },
    peers("gpt_oss"),
)
MODELS = (LLAMA, QWEN, GEMMA, MISTRAL, PHI, GPT_OSS)


def named(name: str) -> Model:
    """Raises StopIteration for an unknown one."""
    return next(model for model in MODELS if model.name == name)
