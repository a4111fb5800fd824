"""Run one site alone: its op on random inputs of its shapes, strides and dtypes.

The `repro.py` of each dump entry builds a `Case` and prints its result. The check is the project's
budget: the op may err at most twice as much against the float64 oracle as the reference does.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.benchmark import Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tile_backend.lowering.fusion import Op

DTYPE = "dtype"
"""The name of every op's argument that is one; in its schema it looks like a number."""
TIMED_SECONDS = 0.2
"""How long each of the two is timed."""


def tensor(shape: Sequence[int], stride: Sequence[int], dtype: str, device: str) -> torch.Tensor:
    """A random tensor of that layout: normal numbers, mostly-true booleans, zeros for integers.

    On a machine without that device it is made on the CPU. Strides of 0 share memory, as expanded
    tensors do.
    """
    kind = torch.device(device).type
    here = device if kind == "cpu" or torch.accelerator.is_available() else "cpu"
    span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    memory = torch.rand(max(span, 1), device=here)
    target = getattr(torch, dtype.removeprefix("torch."))
    if target.is_floating_point or target.is_complex:
        values = torch.randn(max(span, 1), device=here, dtype=torch.float32).to(target)
    elif target is torch.bool:
        values = memory > 0.1
    else:
        values = torch.zeros_like(memory, dtype=target)
    return values.as_strided(tuple(shape), tuple(stride))


def argument(name: str, value: object) -> object:
    """What an op takes for what a report says: a `dtype` has its name there, "float32"."""
    return getattr(torch, value) if name == DTYPE and isinstance(value, str) else value


@dataclasses.dataclass(frozen=True)
class Case:
    """One op of one fusion and the arguments of one site, in schema order, as a report has them.

    interpreted: its kernel runs in the CPU interpreter, as it did at the site.
    """

    op: str
    arguments: Mapping[str, object]
    interpreted: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """The arguments as the op takes them."""
        return {name: argument(name, value) for name, value in self.arguments.items()}

    def declaration(self) -> Op:
        """The op's declaration; a user's own must have been registered before."""
        from tile_backend.lowering import custom_op
        from tile_backend.patterns import all_fusions

        custom_op.define(all_fusions())
        return custom_op.record(self.op).op

    def check(self) -> str:
        """What was compared, with its figures. Raises AssertionError outside the budget."""
        from tile_backend.lowering.oracle import float64, within_budget

        op = self.declaration()
        with torch.no_grad():
            exact = float64(op.reference)(**self.given)
            ours, theirs = (f(**self.given) for f in (self.op_call(), op.reference))
            verdict = within_budget(ours, exact, theirs)
        if not verdict:
            raise AssertionError(f"torch.ops.tilegym.{self.op} is outside its budget: {verdict}")
        return f"torch.ops.tilegym.{self.op}: {verdict}"

    def op_call(self) -> Callable[..., Any]:
        """The registered op."""
        packet = getattr(torch.ops.tilegym, self.op)
        return cast("Callable[..., Any]", packet.interpreted if self.interpreted else packet)

    def bench(self) -> str:
        """Median times of a call of the op and of its reference without gradients."""
        op = self.declaration()
        called = {"op": self.op_call(), "reference": op.reference}
        medians = []
        for name, function in called.items():
            timer = Timer("f(**a)", globals={"f": function, "a": self.given})
            with torch.no_grad():
                median = timer.blocked_autorange(min_run_time=TIMED_SECONDS).median
            medians.append(f"{name} {median * 1e6:.1f} us")
        return ", ".join(medians)

    def run(self) -> str:
        """Check, then time."""
        return f"{self.check()}\n{self.bench()}"
