"""Whole models where attention is not simply causal: padding on either side, packed sequences,
decoding with a static cache step by step, generate().

Every site is rewritten (kernels="always"); logits are held against float64 at every position, those
of padding as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import masking_utils

import tile_backend
from tests.models import named
from tests.models.inputs import words
from tests.models.run import REWRITTEN
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

pytestmark = pytest.mark.filterwarnings("ignore")

CHOSEN = ("llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "llama4_text")
OTHERS = ("cohere2", "olmo3", "exaone4", "deepseek_v3", "phi3")
MODELS = [*CHOSEN, *(pytest.param(name, marks=pytest.mark.full) for name in OTHERS)]
ALIKE = ("llama", "mistral", "deepseek_v3", "phi3")
"""Whose layers all have the same mask."""
COUNTS_FROM_BEGINNINGS = hasattr(masking_utils, "remap_positions_for_packed_sequence")
"""Whether this Transformers compares positions of packed sequences, and not indices."""
DECODE = ("llama", "gemma3_text", "gpt_oss")
"""Of these `make test` decodes: full attention, windows, and windows beside sinks."""
BATCH, LENGTH = 2, 24
BF16, F32 = torch.bfloat16, torch.float32


def left_padded() -> dict[str, Any]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, :5] = 0
    return {"input_ids": words(), "attention_mask": mask}


def right_padded() -> dict[str, Any]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[1, 13:] = 0
    return {"input_ids": words(), "attention_mask": mask}


def packed() -> dict[str, Any]:
    """Three sequences in one row, told apart by their positions only."""
    positions = torch.cat([torch.arange(n) for n in (9, 4, 11)])[None]
    return {"input_ids": words(1), "position_ids": positions}


CALLS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "left_padded": (left_padded, "padding"),
    "right_padded": (right_padded, "padding"),
    "packed": (packed, "segments"),
}


def compiled(model: torch.nn.Module, **settings: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(model, backend="tilegym", options=dict(REWRITTEN), **settings)


def masks() -> list[str]:
    """What the attention sites of the newest compile found their masks to mean."""
    report = tile_backend.last_report()
    assert report is not None
    return [str(s.bindings["mask"]) for s in report.fused if s.fusion == "attention"]


def pairs(name: str, call: str, dtype: torch.dtype) -> list[Any]:
    """What `make test` has: every model, every call in both dtypes."""
    return [name, (call, dtype)]


@pytest.mark.sampled(10, each=pairs)
@pytest.mark.parametrize("dtype", (F32, BF16), ids=str)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, call: str, dtype: torch.dtype) -> None:
    make, factor = CALLS[call]
    model = named.build(name, dtype)
    inputs = {**make(), "use_cache": False}
    wide = oracle.widened(model)
    with torch.no_grad():
        eager = model(**inputs).logits
        with oracle.Float64():
            exact = wide(**inputs).logits
        with without_codegen():
            ours = compiled(named.build(name, dtype))(**inputs).logits
    verdict = within_budget(ours, exact, eager)
    assert verdict, str(verdict)
    assert masks() == expected(name, factor)


def expected(name: str, factor: str) -> list[str]:
    """gpt-oss does not tell packed sequences apart; chunks count from where a row's padding ends,
    or from where its sequence begins, which only the mask itself says.
    """
    own = "" if (name, factor) == ("gpt_oss", "segments") else f"+{factor}"
    local = "" if name in ("llama", "deepseek_v3") else "+window(8)"
    first = f"causal{own}+tensor" if name == "llama4_text" else f"causal{local}{own}"
    if (name, factor) == ("llama4_text", "segments") and not COUNTS_FROM_BEGINNINGS:
        first = f"causal+chunk(8){own}"
    return [first, first if name in ALIKE else f"causal{own}"]


class Decoding:
    """One model with a static cache of its own, a token at a time."""

    def __init__(self, model: torch.nn.Module, call: Any, length: int) -> None:
        self.call = call
        self.cache = transformers.StaticCache(config=model.config, max_cache_len=length)

    @torch.no_grad()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        found = self.call(input_ids=ids, past_key_values=self.cache, use_cache=True).logits
        assert isinstance(found, torch.Tensor)
        return found


@pytest.mark.sampled(6, each=lambda name: [name] if name in DECODE else [])
@pytest.mark.parametrize("name", MODELS)
def test_sixty_four_steps_with_a_static_cache(name: str) -> None:
    """Each step against float64 and eager, whose caches saw the same tokens."""
    model = named.build(name)
    wide = oracle.widened(model)
    eager, exact = Decoding(model, model, 80), Decoding(wide, wide, 80)
    ours = Decoding(model, compiled(copy.deepcopy(model)), 80)
    tokens = words(BATCH, 8 + 64)
    for begin, end in ((0, 8), *((step, step + 1) for step in range(8, 72))):
        ids = tokens[:, begin:end]
        with without_codegen():
            found = ours.logits(ids)
        with oracle.Float64():
            right = exact.logits(ids)
        verdict = within_budget(found, right, eager.logits(ids))
        assert verdict, f"step {begin}: {verdict}"


def test_generate_with_a_compiled_forward() -> None:
    """Greedy search in float32 finds the same words, with a static and with a dynamic cache."""
    model = named.build("llama")
    ids = words(BATCH, 9)
    settings = {"max_new_tokens": 12, "do_sample": False}
    expected = model.generate(ids, **settings)
    for cache in ("static", None):
        other = named.build("llama")
        other.forward = compiled(other.forward)
        with without_codegen():
            found = other.generate(ids, **settings, cache_implementation=cache)
        assert torch.equal(found, expected)
        report = tile_backend.last_report()
        assert report is not None
        assert report.counts["attention"] >= 2
