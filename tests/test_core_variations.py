"""Programs near every spelling: respelled ones are found, and any program keeps its numbers.

The programs are made from the captured graph of each spelling by seeded random edits, so a new
fusion gets its own. What is found in a mutant is not asserted: a mutant may well be another
spelling of the same fusion. That its results, and what it wrote, stay within the error budget is.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.core_edits import KEEPING, WRITING, Edit, variations
from tests.core_graph import Captured, capture, judged, tensors
from tests.core_material import cases, spellings, title
from tests.core_mutants import CHANGING, CUTTING
from tile_backend.lowering.fusion import Fusion, Spelling

Pair = tuple[Fusion, Spelling]
SUPPORTED = [pair for pair in spellings() if pair[1].declined is None]
RESPELLED, MUTANTS, WRITERS, CUT = 3, 3, 3, 2
"""Programs per spelling; each has up to three edits."""


def captured(pair: Pair, kind: str) -> tuple[Captured, random.Random]:
    """One case of the spelling, float32 or bfloat16, and the source of all further choices."""
    choice = random.Random(f"{title(pair)} {kind}")
    dtype = choice.choice((torch.float32, torch.bfloat16))
    case = choice.choice(cases(*pair, dtype))
    return capture(case.function, case.inputs()), choice


def assert_numbers_hold(what: str, program: Captured) -> int:
    """The number of sites that were rewritten."""
    ours, sites = program.rewritten()
    fused = [site.fusion for site in sites if site.status == "fused"]
    if fused:
        verdict = judged(ours, program.module, program.inputs)
        assert verdict, f"{what}: {verdict}\n{program.module.graph}"
    return len(fused)


def fusion(pair: Pair) -> list[str]:
    return [pair[0].name]


@pytest.mark.sampled(3, each=fusion)
@pytest.mark.parametrize("pair", SUPPORTED, ids=title)
def test_another_spelling_is_found(pair: Pair) -> None:
    original, choice = captured(pair, "respelled")
    programs = list(variations(original, KEEPING, RESPELLED, choice, length=3))
    assert programs
    for what, program in programs:
        _, sites = program.rewritten()
        found = collections.Counter(s.fusion for s in sites if s.status == "fused")
        assert found == {pair[0].name: 1}, f"{what}\n{program.module.graph}"
        assert_numbers_hold(what, program)


PROGRAMS: dict[str, tuple[list[Edit], int]] = {
    "mutants": (CHANGING, MUTANTS),
    "respelled_mutants": ([*KEEPING, *CHANGING], MUTANTS),
    "writers": (WRITING, WRITERS),
    "respelled_writers": ([*WRITING, *KEEPING], WRITERS),
}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("pair", SUPPORTED, ids=title)
def test_any_program_keeps_its_numbers(pair: Pair, kind: str) -> None:
    original, choice = captured(pair, kind)
    programs = list(variations(original, *PROGRAMS[kind], choice, length=3))
    assert programs
    for what, program in programs:
        assert_numbers_hold(what, program)


@pytest.mark.sampled(3, each=fusion)
@pytest.mark.parametrize("pair", SUPPORTED, ids=title)
def test_gradients_cut_anywhere(pair: Pair) -> None:
    """detach() and no_grad() inside a fusion: the gradients of eager, none more and none less."""
    original, choice = captured(pair, "cut")
    for what, program in variations(original, [*CUTTING, *KEEPING], CUT, choice, length=3):
        ours, _ = program.rewritten()
        verdict = judged(ours, program.module, program.inputs, gradients)
        assert verdict, f"{what}: {verdict}\n{program.module.graph}"


def gradients(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor]
) -> list[torch.Tensor | None]:
    """Of a weighted sum of all outputs, for every input; None where none arrives."""
    own = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    outputs = [o for o in tensors(function(*own)) if o.requires_grad]
    if not outputs:
        return []
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype)
        total = total + (output * weights.view_as(output)).sum()
    wanted = [t for t in own if t.requires_grad]
    return list(torch.autograd.grad(total, wanted, allow_unused=True))
