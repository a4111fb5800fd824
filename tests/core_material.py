"""Inputs for every spelling of every fusion, made from the declarations alone.

A case is one spelling in one dtype, with the dtypes and absences of its operands that the matcher
itself traces. Sizes are small and differ, so that a mixed-up dimension shows.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tile_backend.lowering import canonical  # noqa: F401 (the words register themselves)
from tile_backend.lowering.fusion import Fusion, Spelling
from tile_backend.lowering.fusion import Tensor as Hole
from tile_backend.lowering.signature import declared
from tile_backend.lowering.trace import LOW, Pattern, dimensions, sizes_for, spelled
from tile_backend.patterns import all_fusions

SIZES = {"B": 2, "K": 3, "S": 5, "L": 7, "N": 4, "D": 16, "E": 12, "_0": 2, "_1": 3}
GROUPS = 2
TABLE = 4
"""H is K times GROUPS where heads are grouped; R is TABLE where it is unrelated to D."""

OUTER = ("B", "S", "L", "N", "_0", "_1")
"""The dimensions of batches and sequences."""

NUMBERS: Mapping[str, Any] = {
    "eps": 1e-3,
    "scale": 0.3,
    "cap": 20.0,
    "fill": -1e4,
    "dropout": 0.25,
    "ignore_index": 2,
    "label_smoothing": 0.125,
    "reduction": "mean",
}
"""Values for scalar holes of these names; any other gets 1.625, exact in every dtype."""
FEWEST_CLASSES = 7
"""Labels are smaller than this, and so than every size that counts classes."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One spelling with one dtype per tensor hole, None where the operand is absent."""

    fusion: Fusion
    spelling: Spelling
    dtypes: Mapping[str, torch.dtype | None]
    scalars: Mapping[str, Any]

    @property
    def function(self) -> Callable[..., Any]:
        """The spelling as a function of its tensors, with its numbers as literals."""
        absent = {name: None for name, dtype in self.dtypes.items() if dtype is None}
        return functools.partial(self.spelling.function, **absent, **self.scalars)

    def inputs(self, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> dict[str, torch.Tensor]:
        """The tensors that are present, by name."""
        generator = torch.Generator().manual_seed(seed)
        sizes = sizes_for(self.spelling, sizes, GROUPS, TABLE)
        made = {}
        for name, dtype in self.dtypes.items():
            hole = self.fusion.holes[name]
            assert isinstance(hole, Hole)
            if dtype is not None:
                made[name] = sample(hole, dtype, sizes, generator)
        return made

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The op's arguments as the declaration says, without asking the matcher."""
        op = self.fusion.op(self.spelling.op)
        nothing = declared(op).filled({})
        transform = self.spelling.transform
        tensors = dict(transform(**inputs)) if transform else dict(inputs)
        bound = {**nothing, **tensors, **self.scalars}
        fixed = self.spelling.attributes.items()
        bound |= {name: given(bound) if callable(given) else given for name, given in fixed}
        return bound

    def __str__(self) -> str:
        words = [
            f"{name}={'none' if dtype is None else str(dtype).removeprefix('torch.')}"
            for name, dtype in self.dtypes.items()
        ]
        return f"{self.fusion.name}-{self.spelling.title}-{'-'.join(words)}"


def sizes_with(batch: int, length: int) -> dict[str, int]:
    """SIZES with another batch and another length of sequences."""
    lengths = {"S": length, "_1": length, "L": length + 2}
    return {**SIZES, "B": batch, "_0": batch, "N": 2 * batch, **lengths}


def parameters_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def is_tensor(fusion: Fusion, name: str) -> bool:
    return isinstance(fusion.holes.get(name), Hole)


def sample(
    hole: Hole, dtype: torch.dtype, sizes: Mapping[str, int], generator: torch.Generator
) -> torch.Tensor:
    """Normal numbers; a mask with one empty row; unit complex numbers; labels of classes."""
    shape = [sizes[n] if n in sizes else int(n) for n in dimensions(hole)]
    if dtype is torch.bool:
        made = torch.rand(shape, generator=generator) > 0.4
        made[..., 0, :] = False
        return made
    if dtype is torch.int64:
        return torch.randint(FEWEST_CLASSES, shape, generator=generator)
    if dtype.is_complex:
        angle = 2 * math.pi * torch.rand(shape, generator=generator)
        return torch.polar(torch.ones(shape), angle)
    return torch.randn(shape, generator=generator).to(dtype)


def cases(fusion: Fusion, spelling: Spelling, dtype: torch.dtype) -> list[Case]:
    """The spelling with `dtype` as its main one: every combination of other dtypes and absences.

    Holes that are alike have one dtype. What eager itself refuses on a CPU is left out.
    """
    low = dtype is not torch.float32
    found = [case_of(p, dtype) for p in spelled(fusion, spelling) if p.low is low]
    return [case for case in found if one_dtype_each(case) and runs(case)]


def one_dtype_each(case: Case) -> bool:
    groups = ([case.dtypes[n] for n in g if n in case.dtypes] for g in case.fusion.alike)
    return all(len(set(group)) <= 1 for group in groups)


def runs(case: Case) -> bool:
    """False for what is traced for GPUs: on CPUs torch's own norms take no mixed dtypes."""
    try:
        case.function(**case.inputs())
    except RuntimeError as error:
        if "dtype" not in str(error) and "scalar type" not in str(error):
            raise
        return False
    return True


def case_of(pattern: Pattern, low: torch.dtype) -> Case:
    fusion, spelling = pattern.fusion, pattern.spelling
    dtypes: dict[str, torch.dtype | None] = {}
    scalars: dict[str, Any] = {}
    for name in parameters_of(spelling.function):
        if not is_tensor(fusion, name):
            scalars[name] = NUMBERS.get(name, 1.625)
            continue
        hole = pattern.holes.get(name)
        dtype = None if hole is None else hole.dtype
        dtypes[name] = low if dtype is LOW else dtype
    return Case(fusion, spelling, dtypes, scalars)


def near_misses() -> list[tuple[Fusion, Spelling]]:
    """Every declared near miss, as a spelling of a fusion that has no other."""
    found = []
    for fusion in all_fusions():
        for function in fusion.near_misses:
            stranger = Spelling(function)
            found.append((dataclasses.replace(fusion, spellings=(stranger,)), stranger))
    return found


def spellings() -> list[tuple[Fusion, Spelling]]:
    return [(fusion, spelling) for fusion in all_fusions() for spelling in fusion.spellings]


def title(pair: tuple[Fusion, Spelling]) -> str:
    return f"{pair[0].name}-{pair[1].title}"
