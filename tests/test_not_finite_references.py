"""NaN, infinity and huge numbers through every spelling and through the op that stands for it.

Each floating-point operand in turn, and the gradient of the result, has rows of them. Results and
gradients of the op's reference are then NaN and infinite where those of the spelling are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from tests.core_graph import tensors
from tests.core_material import Case, cases, spellings, title
from tile_backend.lowering.budget import unlike
from tile_backend.lowering.custom_op import define, record
from tile_backend.lowering.fusion import Fusion, Spelling
from tile_backend.lowering.oracle import float64, widened
from tile_backend.lowering.random_inputs import make_unusual
from tile_backend.patterns import all_fusions

define(all_fusions())
SUPPORTED = [pair for pair in spellings() if pair[1].declined is None]
OF_RESULT = "gradient of the result"


def unusual(case: Case, place: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs, and what the gradient of the result is made of; one of them has unusual rows."""
    inputs = case.inputs()
    generator = torch.Generator().manual_seed(len(place))
    with torch.no_grad():
        result = tensors(case.function(**inputs))[0]
    slope = torch.randn(result.shape, generator=generator).to(result.dtype)
    make_unusual(slope if place == OF_RESULT else inputs[place], generator)
    return inputs, slope


def outcome(
    function: Callable[..., Any], inputs: Mapping[str, torch.Tensor], slope: torch.Tensor
) -> list[torch.Tensor | None]:
    """The first result, and its gradients by every input that has one."""
    leaves = {n: x.detach().requires_grad_(x.is_floating_point()) for n, x in inputs.items()}
    result = tensors(function(**leaves))[0]
    wanted = [x for x in leaves.values() if x.requires_grad]
    found = torch.autograd.grad(result, wanted, slope.to(result.dtype), allow_unused=True)
    return [result.detach(), *found]


def as_op(case: Case) -> Callable[..., Any]:
    """The op, called with what the declaration says of the spelling."""
    op = record(case.fusion.op(case.spelling.op).name)
    finish = case.spelling.finish or (lambda result: result)

    def called(**inputs: torch.Tensor) -> Any:
        given = op.signature.bind((), case.arguments(inputs))
        return finish(tensors(op.overload(*given.values()))[0])

    return called


@pytest.mark.parametrize("pair", SUPPORTED, ids=title)
def test_the_op_has_them_where_the_spelling_has(pair: tuple[Fusion, Spelling]) -> None:
    case = cases(*pair, torch.bfloat16)[-1]
    places = [name for name, x in case.inputs().items() if x.is_floating_point()]
    for place in (*places, OF_RESULT):
        inputs, slope = unusual(case, place)
        theirs = outcome(case.function, inputs, slope)
        exact = outcome(float64(case.function), widened(inputs), slope)
        ours = outcome(as_op(case), inputs, slope)
        assert any(x is not None and not x.isfinite().all() for x in theirs), "nothing is tried"
        assert not any(unlike(ours, exact, theirs)), (str(case), place, unlike(ours, exact, theirs))
