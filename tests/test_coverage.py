"""The counters of `make coverage`: they see what a person sees, and a lost site shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.coverage import compare, table
from tests.coverage.call import Call, Category
from tests.coverage.count import count
from tests.coverage.rewriting import rewritten
from tests.models import inputs, plain
from tile_backend.tiny_model import tiny_model

LLAMA = {"gated_mlp": 2, "norm": 5, "rotary": 4, "sdpa": 2}


def prefill(model: torch.nn.Module) -> dict[str, Any]:
    return inputs.prefill(model)


@pytest.mark.parametrize(
    ("model_type", "attention", "expected"),
    (
        ("llama", "sdpa", LLAMA),
        ("phi3", "sdpa", LLAMA),
        ("gpt_neox", "sdpa", {"norm": 5, "rotary": 4, "sdpa": 2}),
        ("gemma2", "eager", {"eager_attention": 2, "gated_mlp": 2, "norm": 9, "rotary": 4}),
        ("gptj", "eager", {"eager_attention": 2, "norm": 3, "rotary": 4}),
    ),
)
def test_calls_of_an_eager_run(
    model_type: str, attention: str, expected: Mapping[str, int]
) -> None:
    """attention: named, since gemma2 has SDPA in Transformers 5.17 and not in 5.23."""
    model = tiny_model(model_type, attention)
    calls, _ = count(model, prefill(model))
    assert compare.totals(calls) == expected


def test_calls_say_where_they_are() -> None:
    model = tiny_model("llama")
    calls, _ = count(model, prefill(model))
    gate = next(call for call in calls if call.category is Category.GATED_MLP)
    assert gate.module == "model.layers.0.mlp"
    assert gate.owner == "LlamaMLP"
    assert gate.source.startswith("modeling_llama.py:")


def test_counting_does_not_change_the_output_or_leave_hooks() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        before = model(**prefill(model)).logits
    _, output = count(model, prefill(model))
    assert torch.equal(output.logits, before)
    assert not torch.nn.modules.module._global_forward_hooks


class Gates(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.silu(x.float()).to(x.dtype) * x.flip(0)
        second = (x * torch.sigmoid(1.7 * x)) * (x + 1)
        not_gates = F.silu(x) + F.gelu(x) * 2 + x * torch.sigmoid(x.flip(0))
        return first + second + not_gates + F.gelu(x) * F.silu(x)


def test_a_gate_is_an_activation_times_a_tensor() -> None:
    calls, _ = count(Gates(), {"x": torch.randn(4, 8)})
    assert compare.totals(calls) == {"gated_mlp": 3}


def test_a_lost_site_is_named() -> None:
    model = tiny_model("llama")
    calls, _ = count(model, prefill(model))
    _, rewriting = rewritten(model, prefill(model))
    assert compare.uncovered(calls, rewriting.passed) == []
    lost = [site for site in rewriting.passed if site.module != "model.layers.1.mlp"]
    (missed,) = compare.uncovered(calls, lost)
    assert missed.call.module == "model.layers.1.mlp"
    assert missed.reason == "no candidate"


def test_a_site_covers_one_call_only() -> None:
    model = tiny_model("llama")
    calls, _ = count(model, prefill(model))
    _, rewriting = rewritten(model, prefill(model))
    assert len(compare.uncovered([*calls, *calls], rewriting.passed)) == len(calls)


def test_q_and_k_rotated_together_are_two_units() -> None:
    call = Call(Category.ROTARY, "a", "A", "a.py:1", units=2)
    model = tiny_model("llama")
    _, rewriting = rewritten(model, prefill(model))
    site = next(site for site in rewriting.passed if site.fusion == "rotary")
    assert compare.uncovered([call], [dataclasses.replace(site, module="a")]) == []


def test_plain_models_are_counted_as_well() -> None:
    model, (tokens,) = plain.build("complex_rotary")
    calls, _ = count(model, {"tokens": tokens})
    assert compare.totals(calls) == {"gated_mlp": 2, "norm": 5, "sdpa": 2}


def test_the_table_names_what_was_missed_and_what_differs() -> None:
    missed = {
        "category": "norm",
        "owner": "MyNorm",
        "source": "m.py:7",
        "units": 1,
        "reason": "why",
    }
    row = {
        "type": "mine",
        "status": "built",
        "calls": {"norm": 4},
        "missed": [missed],
        "graphs": 1,
        "difference": "logits: maximum error",
    }
    failed = {"type": "other", "status": "not built", "error": "ImportError: PIL"}
    text = table.markdown([row, failed], {"torch": "2"}, "3 s")
    assert "| norms | 3 | 4 | 75.0 % |" in text
    assert "| 1 | norm | MyNorm | m.py:7 | mine | why |" in text
    assert "Outputs that differ, or runs that failed: mine." in text
    assert "| other | ImportError: PIL |" in text
