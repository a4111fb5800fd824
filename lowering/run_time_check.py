"""`torch.ops.tilegym.check`: holds what an op or its backward has just computed against its budget.

The reference of the op and the float64 oracle run on the very inputs. What is within the budget is
passed on as it is; else the reference's result takes its place, after what happened was reported
(see tile_backend.divergence). The check is opaque to the compiler and waits for its results, so it
is for finding out, not for speed.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tile_backend.lowering import autograd, failure, reference
from tile_backend.lowering.budget import Verdict, within_budget
from tile_backend.lowering.check_request import Request
from tile_backend.lowering.fusion import Op

Arguments = Mapping[str, Any]
Results = tuple[torch.Tensor, ...]
DRAWS = 4
"""Sets of inputs that a result outside its budget is judged by."""
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
    """request: a Request as text. given: the tensors that it names. The results, or better ones.

    A check that fails, for want of memory as well, says nothing of the results: they are passed on.
    """
    asked = Request.of(request)
    try:
        return compared(asked, results, given)
    except Exception as error:
        if failure.passes(error) or asked.check.raises:
            raise
        importlib.import_module("tile_backend.divergence").unchecked(asked, failure.said(error))
    return [result.clone() for result in results]


def compared(
    asked: Request, results: Sequence[torch.Tensor], given: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """What is passed on."""
    op, arguments, cotangents = called(asked, given)
    expected, exact = references(asked, op, arguments, cotangents)
    verdict = within_budget(results, exact, expected)
    if not verdict and math.isfinite(verdict.used):
        verdict = settled(asked, op, arguments, cotangents, (results, exact, expected))
    if verdict:
        return [result.clone() for result in results]
    found = Divergence(asked, arguments, cotangents, tuple(results), expected, verdict)
    # By name: what is saved and said is the front's, which lowering does not know.
    report = importlib.import_module("tile_backend.divergence").report
    failure.instead(None, "reporting a result outside its budget", None, report, found)
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


def references(
    asked: Request, op: Op, arguments: Arguments, cotangents: Sequence[torch.Tensor | None]
) -> tuple[Results, Results]:
    """What the reference gives, in its own dtypes and in float64."""
    from tile_backend.lowering import oracle  # imports what imports this module

    def forward(arguments: Arguments, _: Any) -> Results:
        with torch.no_grad():
            return reference.run(op, arguments)

    def backward(arguments: Arguments, cotangents: Sequence[torch.Tensor | None]) -> Results:
        found = autograd.gradients(op, arguments, asked.gradients, cotangents)
        return tuple(
            torch.zeros_like(arguments[name]) if gradient is None else gradient
            for name, gradient in found.items()
        )

    run: Callable[..., Results] = backward if asked.gradients else forward
    given = dict(arguments), tuple(cotangents)
    return run(*given), oracle.float64(run)(*given)


def settled(
    asked: Request,
    op: Op,
    arguments: Arguments,
    cotangents: Sequence[torch.Tensor | None],
    first: tuple[Sequence[torch.Tensor], ...],
) -> Verdict:
    """The verdict on these inputs and on others that are a rounding away, judged as one.

    A result that is wrong stays wrong. One largest error that was unlucky decides nothing.
    """
    runs = [first]
    for seed in range(1, DRAWS):
        values, slopes = nearby((dict(arguments), tuple(cotangents)), seed)
        expected, exact = references(asked, op, values, slopes)
        runs.append((run(asked, values, slopes), exact, expected))
    parts = (list(zip(*some, strict=True)) for some in zip(*runs, strict=True))
    return within_budget(*([torch.stack(row) for row in rows] for rows in parts))


def nearby(tree: Any, seed: int) -> Any:
    """The same, with floating-point numbers moved by up to a rounding step."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        generator = torch.Generator(tensor.device).manual_seed(seed)
        drawn = torch.rand(tensor.shape, generator=generator, device=tensor.device) * 2 - 1
        return torch.empty_like(tensor).copy_(
            tensor.double() * (1 + torch.finfo(tensor.dtype).eps * drawn)
        )

    return pytree.tree_map_only(torch.Tensor, moved, tree)


def run(
    asked: Request, arguments: Arguments, cotangents: Sequence[torch.Tensor | None]
) -> list[torch.Tensor]:
    """The op, or its backward, as the site has it but for the check."""
    overload = getattr(getattr(torch.ops.tilegym, asked.op), asked.check.runs)
    given = {
        name: a.detach().requires_grad_(name in asked.gradients)
        if isinstance(a, torch.Tensor)
        else a
        for name, a in arguments.items()
    }
    with torch.set_grad_enabled(bool(asked.gradients)):
        results = reference.as_tuple(overload(**given))
    if not asked.gradients:
        return list(results)
    pairs = [(r, c) for r, c in zip(results, cotangents, strict=True) if c is not None]
    wanted = [given[name] for name in asked.gradients]
    ours, theirs = zip(*pairs, strict=True)
    return list(torch.autograd.grad(ours, wanted, theirs, materialize_grads=True))
