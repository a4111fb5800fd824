"""`torch.ops.tilegym.check`: holds what an op or its backward has just computed against its budget.

The reference of the op and the float64 oracle run on the very inputs. What is within the budget is
passed on as it is; else the reference's result takes its place, after what happened was reported
(see tile_backend.divergence). The check is opaque to the compiler and waits for its results, so it
is for finding out, not for speed.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering import autograd, reference
from tile_backend.lowering.budget import Verdict
from tile_backend.lowering.check_request import Request
from tile_backend.lowering.fusion import Op

SCHEMA = "check(Tensor[] results, Tensor[] given, str request) -> Tensor[]"
TAGS = (
    torch.Tag.pt2_compliant_tag,
    torch.Tag.needs_exact_strides,  # the results of the check are laid out like what it gets
    torch.Tag.cudagraph_unsafe,
)


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Results outside their budget. arguments: all of the op's. cotangents: of its results.

    expected: what the reference makes of them, which takes the place of `results`.
    """

    request: Request
    arguments: Mapping[str, Any]
    cotangents: tuple[torch.Tensor | None, ...]
    results: tuple[torch.Tensor, ...]
    expected: tuple[torch.Tensor, ...]
    verdict: Verdict


def define(library: torch.library.Library) -> None:
    """Register the op."""
    library.define(SCHEMA, tags=TAGS)
    library.impl("check", check, "CompositeExplicitAutograd")
    torch.library.register_fake("tilegym::check", fake, lib=library)


def fake(results: Sequence[torch.Tensor], given: Any, request: str) -> list[torch.Tensor]:
    return [result.clone() for result in results]


def check(
    results: Sequence[torch.Tensor], given: Sequence[torch.Tensor], request: str
) -> list[torch.Tensor]:
    """request: a Request as text. given: the tensors that it names. The results, or better ones."""
    asked = Request.of(request)
    op, arguments, cotangents = called(asked, given)
    expected, verdict = compared(asked, op, arguments, cotangents, results)
    if verdict:
        return [result.clone() for result in results]
    found = Divergence(asked, arguments, cotangents, tuple(results), expected, verdict)
    # By name: what is saved and said is the front's, which lowering does not know.
    importlib.import_module("tile_backend.divergence").report(found)
    return [r.clone().copy_(better) for r, better in zip(results, expected, strict=True)]


def called(
    asked: Request, given: Sequence[torch.Tensor]
) -> tuple[Op, dict[str, Any], tuple[torch.Tensor | None, ...]]:
    """The op, its arguments by name, and the gradients of its results."""
    from tile_backend.lowering import launch  # imports what imports this module

    record = launch.record_of(asked.op)
    tensors = dict(zip(asked.tensors, given, strict=True))
    values = {name: tensors.get(name, asked.numbers.get(name)) for name in record.signature.names}
    return record.op, values, tuple(tensors.get(i) for i in range(record.signature.results))


def compared(
    asked: Request,
    op: Op,
    arguments: Mapping[str, Any],
    cotangents: Sequence[torch.Tensor | None],
    results: Sequence[torch.Tensor],
) -> tuple[tuple[torch.Tensor, ...], Verdict]:
    """What the reference gives, and whether the results are as good."""
    from tile_backend.lowering import oracle  # imports what imports this module

    def forward(arguments: Mapping[str, Any], _: Any) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return reference.run(op, arguments)

    def backward(
        arguments: Mapping[str, Any], cotangents: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        found = autograd.gradients(op, arguments, asked.gradients, cotangents)
        return tuple(
            torch.zeros_like(arguments[name]) if gradient is None else gradient
            for name, gradient in found.items()
        )

    run: Callable[..., tuple[torch.Tensor, ...]] = backward if asked.gradients else forward
    given = dict(arguments), tuple(cotangents)
    expected = run(*given)
    return expected, oracle.within_budget(results, oracle.float64(run)(*given), expected)
