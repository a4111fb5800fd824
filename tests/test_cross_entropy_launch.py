"""An op that is made of others: the gate, the generated code, and what reaches the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests import fake_compiler
from tests.inductor_code import allocations, code_of, launches
from tests.stub_driver import Driver
from tests.stub_launches import launched
from tile_backend.lowering import composition, gate, launch, launch_abi1
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernels import compiled
from tile_backend.lowering.legality import Call
from tile_backend.lowering.signature import declared
from tile_backend.lowering.site_kernels import LaunchSite, needs_of
from tile_backend.patterns import cross_entropy, linear_cross_entropy

ops = torch.ops.tilegym
BF16 = torch.bfloat16


def layer(tokens: int = 600, device: str = "cpu") -> dict[str, torch.Tensor]:
    return {
        "hidden": torch.zeros(tokens, 64, dtype=BF16, device=device),
        "weight": torch.zeros(1000, 64, dtype=BF16, device=device),
        "labels": torch.zeros(tokens, dtype=torch.int64, device=device),
    }


def large_layer(device: str) -> dict[str, torch.Tensor]:
    """With 2 GiB of logits; for fake tensors."""
    return {
        "hidden": torch.empty(8192, 4096, dtype=BF16, device=device),
        "weight": torch.empty(128256, 4096, dtype=BF16, device=device),
        "labels": torch.empty(8192, dtype=torch.int64, device=device),
    }


def call(fusion: Any, **given: Any) -> Call:
    op = fusion.op()
    arguments = declared(op).filled(given)
    made = op.outputs(**arguments)
    return Call(op, arguments, (made,), (made,))


def test_its_kernels_are_named_from_meta_tensors() -> None:
    """Two kinds of each kernel: for a whole chunk of tokens, and for the last ones."""
    op = record("linear_cross_entropy_with_gradients")
    given = {n: torch.empty_like(t, device="meta") for n, t in layer().items()}
    arguments = op.signature.bind((), {**given, "bias": None, "gradients": "hidden,weight"})
    values = (*arguments.values(), *op.op.outputs(**arguments))
    found = list(composition.called(op.op.name, op.signature.names, values))
    rows = [(name, values[0].shape[0]) for name, _, values in found]
    assert rows == [
        ("cross_entropy_rows", 256),
        ("cross_entropy_grad", 256),
        ("cross_entropy_rows", 88),
        ("cross_entropy_grad", 88),
    ]
    site = LaunchSite.of(Call(op.op, arguments, values[-4:], values[-4:]))
    needs = list(needs_of(site))
    assert len(needs) == 4
    assert all(need.code is not None and not need.refusal for need in needs)


def test_what_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    with FakeTensorMode():
        given = large_layer("cuda")
        verdict = gate.decide(
            linear_cross_entropy.FUSION, call(linear_cross_entropy.FUSION, **given), "auto"
        )
        assert (verdict.decision, verdict.put_in, verdict.fallback) == ("kernel", True, None)
        assert "the largest value in between has 250 MiB, not 1.96 GiB" in verdict.decision.evidence
        logits = given["hidden"].new_empty(8192, 128256)
        alone = call(cross_entropy.FUSION, logits=logits, labels=given["labels"])
        verdict = gate.decide(cross_entropy.FUSION, alone, "auto")
        assert (verdict.decision, verdict.put_in) == ("reference", False)
        double = {n: t.double() if t.dtype is BF16 else t for n, t in given.items()}
        refused = gate.decide(
            linear_cross_entropy.FUSION, call(linear_cross_entropy.FUSION, **double), "always"
        )
    assert refused.fallback is not None
    assert "`logits` is torch.float64" in refused.fallback.text


@pytest.mark.stub
def test_launches_on_the_stub(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk: its losses, then the gradient of its logits, on the same stream."""
    monkeypatch.setattr(compiled.Kernel, "_compiled", lambda *_: fake_compiler.FAKE_CUBIN)
    op = record("linear_cross_entropy_with_gradients")
    arguments = op.signature.bind((), {**layer(), "bias": None, "gradients": "hidden,weight"})
    outputs = op.op.outputs(**arguments)
    for run in (
        lambda: launch.launch(op, arguments, outputs),
        lambda: launch_abi1.linear_cross_entropy_with_gradients(*arguments.values(), *outputs),
    ):
        _, found = launched(driver, run)
        names = [one.kernel.split("_K")[0] for one in found]
        assert names == ["cross_entropy_rows", "cross_entropy_grad"] * 3
        assert [one.grid[0] for one in found] == [256, 256, 256, 256, 88, 88]


def test_one_readable_call_in_the_generated_code() -> None:
    given = layer()
    given["hidden"].requires_grad_()
    given["weight"].requires_grad_()

    def loss(hidden: Any, weight: Any, labels: Any) -> Any:
        return ops.linear_cross_entropy(hidden, weight, None, labels, reduction="sum")

    code = code_of(loss, *given.values())
    (line,) = launches(code)
    assert "_tg.linear_cross_entropy_with_gradients(" in line
    assert "'sum', None, 'hidden,weight'" in line
    assert allocations(code) == 4, "the loss, two gradients, and which rows count"
    assert "600, 1000" not in code, "no tensor of all logits"
