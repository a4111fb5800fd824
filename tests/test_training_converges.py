"""Mini models trained on prose three ways: eager, Inductor, and with every site rewritten.

32 AdamW steps of three seeds, 20 in `make test`. Every step's loss, the parameters and the
log-probabilities of held-out text differ from eager's by no more than twice what Inductor's do, and
one rounding step.
test_training_gpu has the same with real kernels, test_training_interpreted with interpreted ones.
"""

from __future__ import annotations

import pytest

from tests.models.run import REWRITTEN
from tests.training import faults, ways
from tests.training.agreement import agreement
from tests.training.trajectory import Setup

pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = ("llama", "qwen3", "gemma3_text", "mixtral", "phi3", "gpt_oss")
SITES = {
    "llama": {"add_rms_norm": 4, "attention": 2, "rotary": 2, "silu_mul": 2},
    "qwen3": {"add_rms_norm": 4, "attention": 2, "rotary": 2, "silu_mul": 2},
    "gemma3_text": {"attention": 2, "rotary": 2, "gelu_mul": 2},
    "mixtral": {"add_rms_norm": 4, "attention": 2, "rotary": 2},
    "phi3": {"add_rms_norm": 4, "attention": 2, "rotary": 2, "silu_mul": 2},
    "gpt_oss": {"add_rms_norm": 4, "attention": 2, "rotary": 2},
}
"""Of two layers; a loss that is fused as well comes on top."""

ONE_LAYER = (("num_hidden_layers", 1),)
STEPS = 20
"""Of the setups of `make test`; the others take 32."""
LLAMA = Setup("llama", steps=STEPS, changes=ONE_LAYER)
MIXTRAL = Setup("mixtral", "bfloat16", changes=ONE_LAYER)
QUICK = (
    LLAMA,
    pytest.param(
        Setup("llama", "bfloat16", steps=STEPS, changes=ONE_LAYER), marks=pytest.mark.full
    ),
    pytest.param(MIXTRAL, marks=pytest.mark.full),
)


def check(setup: Setup, codegen: bool) -> None:
    layers = dict(setup.changes).get("num_hidden_layers", 2)
    eager = ways.eager(setup)
    for run in eager:
        assert run.losses[-1] < run.losses[0] - 0.5, "the model does not learn"
    found, report = ways.tilegym(setup, REWRITTEN, codegen)
    for fusion, count in SITES[setup.name].items():
        assert report.counts[fusion] == count * layers // 2, report.counts
    assert len(report.graphs) == 1, "one graph serves all steps, seeds and the evaluation"
    assert {site.decision.op_in_graph for site in report.fused} == {True}
    verdict = agreement(eager, ways.inductor(setup), found)
    assert verdict, f"{setup.name} {setup.dtype}: {verdict}"


@pytest.mark.slow
@pytest.mark.parametrize("setup", QUICK, ids=lambda setup: f"{setup.name}-{setup.dtype}")
def test_three_ways(setup: Setup) -> None:
    check(setup, codegen=False)


FAULTS = (
    ("silu_mul", faults.gradient_too_large),
    ("attention", faults.gradient_lost_for_one_feature),
    ("rms_norm", faults.cut_to_bfloat16),
)


@pytest.mark.parametrize(("op", "fault"), FAULTS, ids=lambda part: getattr(part, "__name__", part))
def test_a_planted_error_is_found(op: str, fault: faults.Fault) -> None:
    with faults.planted(fault, op) as planted:
        found, _ = ways.tilegym(LLAMA, REWRITTEN)
    assert sum(planted) >= 1, "nothing was planted"
    verdict = agreement(ways.eager(LLAMA), ways.inductor(LLAMA), found)
    assert not verdict, str(verdict)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("name", MODELS)
def test_three_ways_with_generated_code(name: str, dtype: str) -> None:
    check(Setup(name, dtype), codegen=True)
