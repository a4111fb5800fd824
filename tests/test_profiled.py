"""Under a profiler each launch bears its op and its module; without one nothing is looked up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.inductor_code import first_call
from tile_backend.lowering import profiled


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(64)
        self.gate, self.up = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return F.silu(self.gate(x)) * self.up(x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def names(events: profile) -> list[str]:
    """Each once: the backward runs cheap ops again."""
    return sorted({e.name for e in events.events() or () if e.name.startswith("tilegym.")})


def test_a_profile_names_launches_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    options = {"tilegym.kernels": "always"}
    compiled = torch.compile(Model(), backend="tilegym", options=options)
    x = torch.randn(8, 64, requires_grad=True)

    def step(x: torch.Tensor) -> None:
        compiled(x).sum().backward()

    first_call(step, x)
    looked_up: list[str] = []
    monkeypatch.setattr(profiled, "recorded", lambda op, run: looked_up.append(op))
    step(x)
    assert not looked_up
    monkeypatch.undo()
    with profile(activities=[ProfilerActivity.CPU]) as events:
        step(x)
    assert names(events) == [
        "tilegym.rms_norm layers.0.norm",
        "tilegym.rms_norm layers.1.norm",
        "tilegym.rms_norm_grad layers.0.norm",
        "tilegym.rms_norm_grad layers.1.norm",
        "tilegym.silu_mul layers.0",
        "tilegym.silu_mul layers.1",
        "tilegym.silu_mul_grad layers.0",
        "tilegym.silu_mul_grad layers.1",
    ]


CODE = """\
# tilegym.rms_norm  model.norm  modeling.py:66  rounding='once'
# another comment
call(1)
# tilegym.softmax  modeling.py:12
call(2)
call(3)
"""


@pytest.mark.parametrize(
    ("line", "name"),
    ((3, "tilegym.rms_norm model.norm"), (5, "tilegym.softmax"), (6, "tilegym.op")),
)
def test_the_name_is_that_of_the_comment_above(line: int, name: str, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    assert profiled.name_at("op", str(file), line) == name


def test_code_that_is_gone_costs_only_the_module() -> None:
    assert profiled.name_at("op", "/nowhere/code.py", 5) == "tilegym.op"
