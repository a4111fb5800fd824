"""Training three ways with every kernel interpreted: the real arithmetic of the kernels, on a CPU.

Smaller than in test_training_converges, because the interpreter is slow; the same criterion.
"""

from __future__ import annotations

import warnings

import pytest

from tests.training import ways
from tests.training.agreement import agreement
from tests.training.trajectory import Setup
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

INTERPRETED = {"tilegym.kernels": "interpret", "tilegym.strict": "no-fallback"}
SMALL = (
    ("num_hidden_layers", 1),
    ("hidden_size", 32),
    ("intermediate_size", 64),
    ("num_attention_heads", 2),
    ("num_key_value_heads", 1),
    ("head_dim", 16),
)
ONE_LAYER = {"gemma3_text": ("sliding_attention",), "gpt_oss": ("sliding_attention",)}


def small(name: str, dtype: str, steps: int) -> Setup:
    """One layer, two heads 16 wide, batches of 2 x 16 tokens."""
    changes: tuple[tuple[str, object], ...] = SMALL
    if name in ONE_LAYER:
        changes = (*changes, ("layer_types", ONE_LAYER[name]))
    return Setup(name, dtype, steps=steps, length=16, changes=changes)


def check(setup: Setup) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        found, report = ways.tilegym(setup, INTERPRETED)
    assert {str(site.decision) for site in report.fused} == {"interpreted"}
    assert {"attention", "rotary"} <= report.counts.keys()
    verdict = agreement(ways.eager(setup), ways.inductor(setup), found)
    assert verdict, f"{setup.name} {setup.dtype}: {verdict}"


@pytest.mark.full
def test_three_ways() -> None:
    check(small("llama", "float32", steps=2))


@pytest.mark.full
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("name", ("llama", "qwen3", "gemma3_text", "mixtral", "phi3", "gpt_oss"))
def test_three_ways_of_every_model(name: str, dtype: str) -> None:
    check(small(name, dtype, steps=8))
