"""What `bench.models` runs of each model: prefill of one prompt, and one step of decoding.

A prefill computes the logits of the last token, as generation does. A decode step has a static
cache, filled to FILLED with random numbers. On a CPU the same models are counted at full size,
without memory for their weights, and run at a reduced one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch

from bench.model_configs import MODELS, Model
from tile_backend import tiny_model

PREFILL, DECODE = (2048, 8192, 32768), (1, 8, 64)
"""Tokens of a prompt; sequences of a decode step."""
FILLED, ROOM = 4096, 1024
"""Tokens in a cache, and places left, of which every step takes one."""
REDUCED_FILLED, REDUCED_LENGTH = 256, 512
PART = 0.6
"""Of a GPU's memory, for weights, their copy in float32 and the cache."""
COUNTED_LAYERS = 4
"""Of the models whose code is counted without a GPU; gemma3_text needs six for its pattern."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One model at one size. length: of the prompt; 1 in a decode step. filled: of the cache.

    layers: how many of the model's are there.
    """

    model: Model
    phase: str
    batch: int
    length: int
    layers: int
    filled: int = 0
    room: int = 0
    dtype: torch.dtype = torch.bfloat16
    reduced: bool = False

    @property
    def title(self) -> str:
        """By which --only chooses, and a row is known."""
        size = self.length if self.phase == "prefill" else self.batch
        return f"{self.model.name} {self.phase} {size}"

    @property
    def decodes(self) -> bool:
        return self.phase == "decode"

    @property
    def config(self) -> Any:
        """Transformers' configuration."""
        return self.model.configuration(self.layers)

    def built(self, device: str) -> Any:
        """The model with random weights, the same each time, its norms off one."""
        made = self.model.made(self.layers, device, self.dtype)
        tiny_model.randomise_norms(made)
        return made

    def arguments(self, device: str, values: bool = True) -> dict[str, Any]:
        """Of one call. values: a cache has random contents, else memory that nobody touches."""
        generator = torch.Generator().manual_seed(1)
        words = self.model.config["vocab_size"]
        ids = torch.randint(3, words, (self.batch, self.length), generator=generator).to(device)
        if not self.decodes:
            return {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}
        positions = torch.full((self.batch, 1), self.filled, device=device)
        cache = self.cache(device, values)
        return {
            "input_ids": ids,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
        }

    def cache(self, device: str, values: bool) -> Any:
        """A static cache, filled."""
        from transformers import StaticCache

        made = StaticCache(config=self.config, max_cache_len=self.filled + self.room)
        heads = self.model.config["num_key_value_heads"]
        made.early_initialization(self.batch, heads, self.model.head_dim, self.dtype, device)
        if values:
            fill(made, self.filled)
        else:
            set_counts(made, self.filled)
        return made


def fill(cache: Any, filled: int) -> None:
    """Random contents, the same each time; in place, since compiled code knows the addresses."""
    torch.manual_seed(2)
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    set_counts(cache, filled)


def set_counts(cache: Any, filled: int) -> None:
    """How much of a cache is filled, which every step moves on."""
    for layer in cache.layers:
        layer.cumulative_length.fill_(min(filled, layer.max_cache_len))
        if hasattr(layer, "cumulative_length_int"):
            layer.cumulative_length_int = filled


def set_back_windows(cache: Any, filled: int) -> None:
    """As `set_counts`, of the layers with a window alone, whose count is a plain number."""
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length_int"):
            layer.cumulative_length_int = filled


# --- which ----------------------------------------------------------------------------------------


def sized(model: Model, layers: int) -> list[Case]:
    """All cases of a model with so many layers."""
    prefills = [Case(model, "prefill", 1, length, layers) for length in PREFILL]
    decodes = [
        Case(model, "decode", batch, 1, layers, filled=FILLED, room=ROOM) for batch in DECODE
    ]
    return prefills + decodes


def with_layers(case: Case, layers: int) -> Case:
    """The case with so many layers."""
    (found,) = (c for c in sized(case.model, layers) if c.title == case.title)
    return found


def gpu_cases(memory: int) -> list[Case]:
    """At full size, with as many layers as that many bytes allow."""
    found = [case for model in MODELS for case in sized(model, model.layers)]
    return [dataclasses.replace(case, layers=layers_in(case, memory)) for case in found]


def layers_in(case: Case, memory: int) -> int:
    """How many layers fit: weights, their copy in float32, and the cache."""
    once, each = parameters(case.model)
    bytes_of = case.dtype.itemsize + 4
    left = PART * memory - once * bytes_of
    fit = int(left // (each * bytes_of + cache_bytes(case)))
    return max(1, min(case.model.layers, fit))


@functools.lru_cache(maxsize=len(MODELS))
def parameters(model: Model) -> tuple[int, int]:
    """Outside the layers, and of one layer."""
    one, two = (sum(p.numel() for p in model.made(n, "meta").parameters()) for n in (1, 2))
    return 2 * one - two, two - one


def cache_bytes(case: Case) -> int:
    """Of one layer that sees everything."""
    heads = case.model.config["num_key_value_heads"]
    tokens = case.batch * (case.filled + case.room)
    return 2 * tokens * int(heads) * case.model.head_dim * case.dtype.itemsize


def counted_cases() -> list[Case]:
    """What is counted without a GPU: full size but for the layers."""
    return [case for model in MODELS for case in sized(model, counted_layers(model))]


def counted_layers(model: Model) -> int:
    """Enough for each kind of layer."""
    return 6 if model.family == "gemma3_text" else COUNTED_LAYERS


def reduced(case: Case) -> Case:
    """Of the same kind, small enough for two cores: narrower, two layers, shorter, float32."""
    model = dataclasses.replace(case.model, config=reduced_config(case.model.config))
    small = dataclasses.replace(case, model=model, layers=2, dtype=torch.float32, reduced=True)
    if case.decodes:
        return dataclasses.replace(small, filled=REDUCED_FILLED, room=ROOM)
    return dataclasses.replace(small, length=REDUCED_LENGTH)


def reduced_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """An eighth of the widths; heads in the same groups, 64 wide."""
    groups = config["num_attention_heads"] // config["num_key_value_heads"]
    found = {
        **config,
        "vocab_size": 4096,
        "pad_token_id": 0,
        "hidden_size": 512,
        "intermediate_size": 512 * config["intermediate_size"] // config["hidden_size"] // 64 * 64,
        "num_attention_heads": 8,
        "num_key_value_heads": max(1, 8 // groups),
        "head_dim": 64,
    }
    if "num_local_experts" in config:
        found |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    if config.get("sliding_window"):
        found["sliding_window"] = 128
    if "layer_types" in config:
        found["layer_types"] = ("sliding_attention", "full_attention")
    return found
