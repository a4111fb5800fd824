"""What a causal language model is called with: prefill, padded prefill, one decode step, training.

Each function takes a model and returns keyword arguments for it. The decode step needs the state of
a prefill, which it runs eagerly; call it anew for each run, because the step writes into the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

BATCH, LENGTH, CACHE, FIRST_WORD, WORDS = 2, 24, 32, 3, 128

Inputs = Callable[[torch.nn.Module], dict[str, Any]]


def words(batch: int = BATCH, length: int = LENGTH) -> torch.Tensor:
    """Token ids [batch, length], int64, without special tokens; the same at each call."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(FIRST_WORD, WORDS, (batch, length), generator=generator)


def prefill(_model: torch.nn.Module) -> dict[str, Any]:
    return {"input_ids": words(), "use_cache": False}


def padded(_model: torch.nn.Module) -> dict[str, Any]:
    """The first row is padded on the left, as for generation."""
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, :5] = 0
    return {"input_ids": words(), "attention_mask": mask, "use_cache": False}


@torch.no_grad()
def decode(model: torch.nn.Module) -> dict[str, Any]:
    """One token after a prefill of LENGTH, with a static cache of CACHE positions."""
    cache = transformers.StaticCache(config=model.config, max_cache_len=CACHE)
    model(input_ids=words(), past_key_values=cache, use_cache=True)
    return {
        "input_ids": words(length=1),
        "position_ids": torch.full((BATCH, 1), LENGTH),
        "past_key_values": cache,
        "use_cache": True,
    }


def training(_model: torch.nn.Module) -> dict[str, Any]:
    """The loss is computed inside the model from labels."""
    return {"input_ids": words(), "labels": words(), "use_cache": False}


INPUTS: Mapping[str, Inputs] = {"prefill": prefill, "padded": padded, "decode": decode}
