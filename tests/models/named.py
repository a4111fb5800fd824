"""The Transformers architectures that the project promises, as tiny configurations.

Every entry keeps what makes its architecture special (windows, experts, scales, partial rotary) and
shrinks the rest: 64 wide, four heads, 128 words. Nothing is downloaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from tile_backend.tiny_model import randomise_norms

logging.getLogger("transformers").setLevel(logging.ERROR)

COMMON: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LOCAL_AND_GLOBAL = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "head_dim": 16,
}
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"head_dim": 16, "sliding_window": 8},
    "gemma": {"head_dim": 16},
    "gemma3_text": {**LOCAL_AND_GLOBAL, "query_pre_attn_scalar": 24},
    "gemma2": {
        **LOCAL_AND_GLOBAL,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 20.0,
    },
    "phi3": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {},
    "granite": {
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "logits_scaling": 4.0,
    },
    "smollm3": {"no_rope_layers": [1, 0]},
    "starcoder2": {"sliding_window": None},
    "gpt_oss": {
        **LOCAL_AND_GLOBAL,
        "intermediate_size": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "stablelm": {"use_qkv_bias": True},
    "gpt_neox": {},
    "cohere2": LOCAL_AND_GLOBAL,
    "olmo3": LOCAL_AND_GLOBAL,
    "exaone4": LOCAL_AND_GLOBAL,
    "llama4_text": {
        "head_dim": 16,
        "intermediate_size_mlp": 128,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "attention_chunk_size": 8,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
    },
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
}
EAGER_ONLY = frozenset(("gemma2", "gpt_oss"))
"""Architectures that refuse scaled_dot_product_attention."""

WITHOUT_KV_HEADS = frozenset(("gpt_neox",))


def configuration(name: str, **changes: Any) -> Any:
    """The tiny configuration of `name`, with fields changed."""
    fields = {**COMMON, **CONFIGURATIONS[name], **changes}
    if name in WITHOUT_KV_HEADS:
        del fields["num_key_value_heads"]
    return transformers.AutoConfig.for_model(name, **fields)


def build(
    name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any
) -> torch.nn.Module:
    """A random model in evaluation mode, the same for the same arguments.

    Dtype bf16 is what `from_pretrained(dtype=torch.bfloat16)` gives: every parameter is bf16.
    """
    generator = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            configuration(name, **changes),
            attn_implementation="eager" if name in EAGER_ONLY else "sdpa",
            dtype=dtype,
        )
        randomise_norms(model)
    finally:
        torch.random.set_rng_state(generator)
    return model.eval()


def layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The decoder layers, which a user may compile one by one."""
    prefix = str(model.base_model_prefix)  # of llama4 a name that only its multi-modal model has
    found = model.get_submodule(prefix if hasattr(model, prefix) else "model").get_submodule(
        "layers"
    )
    assert isinstance(found, torch.nn.ModuleList)
    return found
