"""A small program as data: inputs, statements, results. It renders as Python and runs as it reads.

Sizes go by name (`S = x.shape[1]`), so one text serves all sizes. Inputs are made anew for every
run, in their own dtypes or in float64, with the same values and the same aliases among them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from tests.fuzz import names
from tile_backend.lowering.oracle import WIDE

Sizes = Mapping[str, int]
SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "tiny": 1e-30}
HUGE = 0.9
"""Of the largest number that the dtype has."""


@dataclasses.dataclass(frozen=True)
class Input:
    """A tensor that the program is called with.

    dims: names of sizes, or numbers. kind: of values, see `values`. view: of another input, as an
    expression on it. special: (what, where) of values that are not ordinary. grad: is a leaf that
    gets a gradient.
    """

    name: str
    dims: tuple[str | int, ...]
    dtype: torch.dtype
    kind: str = "normal"
    base: str = ""
    view: str = ""
    special: tuple[tuple[str, int], ...] = ()
    grad: bool = False

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else sizes[d] for d in self.dims)


@dataclasses.dataclass(frozen=True)
class Statement:
    """One line. kind: what it is for, "write add_", "copy clone", "site rms_norm"; for counting."""

    text: str
    kind: str
    depth: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
    """sizes: the first is what it is compiled for; with several, it is called with each in turn."""

    inputs: tuple[Input, ...]
    statements: tuple[Statement, ...]
    results: tuple[str, ...]
    sizes: tuple[Sizes, ...]
    trains: bool = False

    @functools.cached_property
    def source(self) -> str:
        """The text of `def program(...)`."""
        lines = [f"def program({', '.join(i.name for i in self.inputs)}):"]
        lines += [f"    {name} = {where}" for name, where in self.read_sizes()]
        lines += ["    " * (s.depth + 1) + s.text for s in self.statements]
        lines.append(f"    return ({''.join(f'{name}, ' for name in self.results)})")
        return "\n".join(lines) + "\n"

    def read_sizes(self) -> Iterator[tuple[str, str]]:
        """Each size that the text names, and which input has it."""
        words = set(itertools.chain(*(names.words(s.text) for s in self.statements)))
        for size in self.sizes[0]:
            places = ((i.name, i.dims.index(size)) for i in self.inputs if size in i.dims)
            where = next(places, None)
            if size in words:
                yield size, f"{where[0]}.shape[{where[1]}]" if where else str(self.sizes[0][size])

    @functools.cached_property
    def file(self) -> str:
        """Under which tracebacks and Dynamo find the source."""
        file = f"<program {next(_numbers)}>"
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(True), file)
        return file

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        return self.compiled(self.source)

    def compiled(self, source: str, **instead: Any) -> Callable[..., Any]:
        """instead: other meanings of names that the text may use, see names.meanings."""
        space: dict[str, Any] = {**names.meanings(), **instead}
        exec(compile(source, self.file, "exec"), space)
        return space["program"]  # type: ignore[no-any-return]

    def traceable(self, **instead: Any) -> Callable[..., Any]:
        """The same function for the proxies of `capture`."""
        return self.compiled(names.traceable(self.source), **instead)

    def tensors(self, seed: int = 0, wide: bool = False, size: int = 0) -> dict[str, torch.Tensor]:
        """The inputs by name. wide: in float64 or complex128, with the narrow ones' values."""
        generator = torch.Generator().manual_seed(seed)
        made: dict[str, torch.Tensor] = {}
        for given in self.inputs:
            if given.base:
                made[given.name] = eval(given.view, {"torch": torch, given.base: made[given.base]})
                continue
            tensor = values(given, given.shape(self.sizes[size]), self.sizes[size], generator)
            tensor = tensor.to(WIDE.get(tensor.dtype, tensor.dtype)) if wide else tensor
            made[given.name] = tensor.requires_grad_(given.grad and self.trains)
        return made

    def forget(self) -> None:
        """Drop the source from linecache."""
        linecache.cache.pop(self.file, None)


_numbers = itertools.count()


def values(
    given: Input, shape: Sequence[int], sizes: Sizes, generator: torch.Generator
) -> torch.Tensor:
    """Ordinary numbers of the input's kind, with the special ones put in."""
    if given.kind == "labels":
        return torch.randint(sizes["V"], shape, generator=generator)
    if given.kind == "order":
        return torch.randperm(shape[0], generator=generator)
    if given.dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.7
    made = torch.randn(shape, generator=generator)
    if given.dtype is torch.complex64:
        return torch.polar(torch.ones(shape), made)
    if given.kind == "gain":
        made = 1 + made / 4
    if given.kind == "additive":
        made = made.masked_fill(torch.rand(shape, generator=generator) < 0.2, float("-inf"))
    made = made.to(given.dtype)
    for what, where in given.special:
        if made.numel():
            huge = HUGE * torch.finfo(given.dtype).max
            made.view(-1)[where % made.numel()] = SPECIAL.get(what, huge)
    return made


def without(program: Program, index: int) -> Program:
    """The same without one statement."""
    kept = (*program.statements[:index], *program.statements[index + 1 :])
    return dataclasses.replace(program, statements=kept)
