"""What training launches is found without running it, and is what training does launch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernel_cases import arguments_of
from tests.tuning_entries import ARCH
from tile_backend import cli
from tile_backend.lowering import launch_configuration, launch_recipe, reference
from tile_backend.lowering.custom_op import define, record
from tile_backend.lowering.launch_configuration import kind_of_launch
from tile_backend.lowering.prune import Call
from tile_backend.registry import known_fusions
from tile_backend.tuning_training import in_training

pytestmark = pytest.mark.usefixtures("tuning")

TRAINED = {
    "rms_norm": ("x", "weight"),
    "add_rms_norm": ("x", "residual", "weight"),
    "layer_norm": ("x", "weight", "bias"),
    "silu_mul": ("gate", "up"),
    "gelu_mul": ("gate", "up"),
    "softmax": ("x",),
    "rotary_qk": ("q", "k"),
    "attention": ("q", "k", "v"),
}


def on_meta(op: str, values: dict[str, Any]) -> Call:
    outputs = reference.as_tuple(record(op).op.outputs(**values))
    given = [
        torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device="meta")
        if isinstance(v, torch.Tensor)
        else v
        for v in (*values.values(), *outputs)
    ]
    return Call(op, tuple(values), tuple(given), ARCH)


def kind(call: Call) -> tuple[str, Any]:
    arguments = dict(zip(call.names, call.values, strict=False))
    found = kind_of_launch(call.op, arguments, call.values[len(call.names) :])
    assert found is not None
    return found.text, found.sizes


@pytest.mark.parametrize("op", TRAINED)
def test_what_training_launches_is_found(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    define(known_fusions())
    values = arguments_of(op, "ragged", torch.float32)
    found = [kind(call) for call in in_training(on_meta(op, values), TRAINED[op])]

    launched = []
    planned = launch_configuration.planned

    def noted(name: str, plan: Any, arguments: Any, outputs: Any, arch: str) -> Any:
        launched.append(kind(Call(name, tuple(arguments), (*arguments.values(), *outputs), arch)))
        return planned(name, plan, arguments, outputs, arch)

    monkeypatch.setattr(launch_configuration, "planned", noted)
    launch_recipe.recipe.cache_clear()
    for name in TRAINED[op]:
        values[name] = values[name].detach().clone().requires_grad_()
    results = reference.as_tuple(record(op).interpreted(*values.values()))
    torch.autograd.backward(results, [torch.randn_like(result) for result in results])
    assert found == launched
    assert len(found) > 1


def test_a_backward_by_the_reference_launches_nothing() -> None:
    define(known_fusions())
    values = arguments_of("rotary_qk", "ragged", torch.float32)
    assert list(in_training(on_meta("rotary_qk", values), ("q", "cos"))) == []


def block() -> Any:
    def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(gate) * up

    return gated, (torch.randn(8, 64, requires_grad=True), torch.randn(8, 64))


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tile_backend.tuning.pruned", lambda _: pytest.fail("not asked"))
    monkeypatch.setattr("tile_backend.tuning.row_of", lambda job, *_: row(job))
    target = f"{__name__}:block"
    assert cli.main(["tune", target, "--arch", "sm_90", "--training"]) == 0
    said = capsys.readouterr().out
    assert "silu_mul gate=f32[64]" in said
    assert "silu_mul_grad dout=f32[64] gate=f32[64] up=f32[64] of_up=false read=0" in said


def row(job: Any) -> Any:
    from tile_backend.tuning import Row

    return Row(job, "to measure", "")
