"""A program while it is drawn: its names with the values they have, and what may be done to them.

Every statement runs as it is written, so shapes, dtypes and storages are known, and a statement
that torch refuses is not written. (Meta tensors would do as well, at twenty times the cost.) All
choices are numbers from `choose`; 0 is the plainest choice, which is where hypothesis shrinks to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from tests.fuzz import names
from tests.fuzz.program import Input, Statement, values

T = TypeVar("T")
Dims = tuple[str | int, ...]
REFUSALS = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    NotImplementedError,
    AttributeError,
    AssertionError,
)
REUSED = 65
"""In a hundred operands, those that some statement made or another site reads."""
ANOTHER = 30
"""In a hundred uses of a value that has copies or aliases, those that read one of these."""
RECENT = 6


class Refused(Exception):
    """Torch does not take this statement."""


@dataclasses.dataclass
class Draft:
    """choose: a number from 0 up to, and without, the one given. sizes: of the program.

    dtype: of most tensors. trains: some inputs get gradients. twins: name -> all names that were
    given the same values. operands: of sites. hot: what open sites read or made, which is where a
    write or a copy matters. made: results of sites. masks: by form. outside: for each body around
    this place, the names that it reads from outside; gone: the values of finished bodies.
    """

    choose: Callable[[int], int]
    sizes: Mapping[str, int]
    dtype: torch.dtype
    trains: bool = False
    special: bool = False
    dynamic: bool = False
    writes: bool = False
    block: int = 0
    depth: int = 0
    inputs: list[Input] = dataclasses.field(default_factory=list)
    statements: list[Statement] = dataclasses.field(default_factory=list)
    values: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    twins: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    operands: list[str] = dataclasses.field(default_factory=list)
    hot: list[str] = dataclasses.field(default_factory=list)
    leaves: set[int] = dataclasses.field(default_factory=set)
    used: dict[str, int] = dataclasses.field(default_factory=dict)
    made: list[str] = dataclasses.field(default_factory=list)
    masks: dict[tuple[str, bool], list[str]] = dataclasses.field(default_factory=dict)
    outside: list[frozenset[str]] = dataclasses.field(default_factory=list)
    gone: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    no_grad: bool = False
    generator: torch.Generator = dataclasses.field(default_factory=torch.Generator)

    # --- draws ------------------------------------------------------------------------------------

    def pick(self, options: Sequence[T]) -> T:
        return options[self.choose(len(options))]

    def chance(self, percent: int) -> bool:
        """Of yes; shrinks to no."""
        return self.choose(100) >= 100 - percent

    def number(self, least: int, most: int) -> int:
        return least + self.choose(most - least + 1)

    # --- statements -------------------------------------------------------------------------------

    def let(self, hint: str, text: str, kind: str) -> str:
        """A new name for the value of an expression."""
        value = self.evaluated(text)
        if not isinstance(value, torch.Tensor):
            raise Refused(f"{text} is no tensor")
        name = self.fresh(hint)
        self.statements.append(Statement(f"{name} = {text}", kind, self.depth))
        self.values[name] = value
        self.hot.append(name)
        return name

    def lets(self, hints: Sequence[str], text: str, kind: str) -> list[str]:
        """Names for the parts of a tuple."""
        values = self.evaluated(text)
        if not isinstance(values, (tuple, list)) or len(values) != len(hints):
            raise Refused(f"{text} has other parts")
        made = [self.fresh(hint) for hint in hints]
        self.statements.append(Statement(f"{', '.join(made)} = {text}", kind, self.depth))
        self.values |= dict(zip(made, values, strict=True))
        self.hot += made
        return made

    def do(self, text: str, kind: str) -> None:
        """A statement that gives nothing a name."""
        self.executed(text)
        self.statements.append(Statement(text, kind, self.depth))

    def evaluated(self, text: str) -> Any:
        return self.tried(lambda: eval(text, {**names.meanings(), **self.sizes, **self.values}))

    def executed(self, text: str) -> None:
        self.tried(lambda: exec(text, {**names.meanings(), **self.sizes, **self.values}))

    def tried(self, run: Callable[[], T]) -> T:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return run()
        except REFUSALS as error:
            raise Refused(str(error)) from None

    def fresh(self, hint: str) -> str:
        """The hint itself, and then with numbers."""
        self.used[hint] = self.used.get(hint, 0) + 1
        return hint if self.used[hint] == 1 else f"{hint}{self.used[hint]}"

    @contextlib.contextmanager
    def inside(self, text: str, kind: str) -> Iterator[None]:
        """The statements of a block."""
        self.statements.append(Statement(text, kind, self.depth))
        self.depth += 1
        before = len(self.statements)
        try:
            yield
        finally:
            if len(self.statements) == before:
                self.statements.append(Statement("pass", kind, self.depth))
            self.depth -= 1

    # --- operands ---------------------------------------------------------------------------------

    def shape(self, dims: Dims) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else self.sizes[d] for d in dims)

    def need(
        self, hint: str, dims: Dims, dtype: torch.dtype | None = None, kind: str = "normal"
    ) -> str:
        """A tensor of this shape: one that is there, or a new input."""
        dtype = dtype or self.dtype
        known = [n for n in self.values if self.fits(n, dims, dtype)]
        if known and self.chance(REUSED):
            return self.pick(known[: -RECENT - 1 : -1])
        return self.input(hint, dims, dtype, kind)

    def fits(self, name: str, dims: Dims, dtype: torch.dtype) -> bool:
        value = self.values[name]
        return value.dtype == dtype and tuple(value.shape) == self.shape(dims)

    def input(
        self, hint: str, dims: Dims, dtype: torch.dtype | None = None, kind: str = "normal"
    ) -> str:
        """A new input. In training some are leaves, some the values of leaves times a number."""
        dtype = dtype or self.dtype
        floats = dtype.is_floating_point and kind != "additive"
        grad = floats and self.trains and self.chance(75)
        name = self.fresh(hint)
        what = self.special_values() if floats and self.special and self.chance(40) else ()
        self.inputs.append(Input(name, dims, dtype, kind, special=what, grad=grad))
        made = values(self.inputs[-1], self.shape(dims), self.sizes, self.generator)
        self.values[name] = made
        if not grad:
            self.alias(name)
            return name
        self.leaves.add(storage(self.values[name]))
        if kind == "normal" and self.chance(50):
            return self.let(hint, f"{name} * 1.25", "leaf")
        return name

    def alias(self, name: str) -> None:
        """Now and then one more input, which is the same memory or a part of it."""
        given = self.inputs[-1]
        if given.dtype.is_floating_point and self.shape(given.dims)[:1] != (0,) and self.chance(8):
            text, dims = self.pick((("{}[:]", given.dims), ("{}[0]", given.dims[1:])))
            view, other = text.format(name), self.fresh(f"{name}_view")
            self.inputs.append(Input(other, dims, given.dtype, base=name, view=view))
            self.values[other] = eval(view, dict(self.values))
            if dims == given.dims:
                self.twin(other, name)

    def special_values(self) -> tuple[tuple[str, int], ...]:
        what = ("nan", "inf", "-inf", "huge", "tiny")
        return tuple((self.pick(what), self.number(0, 99)) for _ in range(self.number(1, 2)))

    def at(self, name: str) -> str:
        """The name, or another that was given the same values."""
        others = [n for n in self.twins.get(name, ()) if n != name and n in self.values]
        return self.pick(others) if others and self.chance(ANOTHER) else name

    def twin(self, name: str, of: str) -> None:
        """Both hold the same values, as long as nobody writes."""
        group = self.twins.setdefault(of, [of])
        group.append(name)
        self.twins[name] = group

    def results(self, made: Sequence[str]) -> None:
        """What a site gave: of interest to whatever comes behind, and to the caller."""
        self.made += made
        self.hot += made

    # --- what may be written to -------------------------------------------------------------------

    def rebinds(self, name: str) -> bool:
        """Whether `x += y` is Python for it: not in a body, of a value outside."""
        inputs = {given.name for given in self.inputs}
        return not self.outside or not (name in self.outside[-1] or name in inputs)

    def writable(self, name: str) -> bool:
        """Whether eager takes a write: no leaf under grad, no element twice in memory.

        In training a body, which may run twice, writes to what it made itself.
        """
        value = self.values[name]
        if self.outside and self.trains and self.alien(value):
            return False
        if self.trains and not self.no_grad and storage(value) in self.leaves:
            return False
        twice = any(s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=True))
        return not twice and (value.is_floating_point() or value.dtype is torch.bool)

    def alien(self, value: torch.Tensor) -> bool:
        """Whether its memory is that of an input or, in a body, of a value outside."""
        others = {i.name for i in self.inputs}.union(*self.outside[-1:])
        return storage(value) in {storage(self.values[n]) for n in others if n in self.values}

    def own(self, name: str) -> bool:
        """Whether a step may write to it in place of making something new."""
        return self.writable(name) and self.rebinds(name) and not self.alien(self.values[name])

    def some(self, allowed: Callable[[str], bool] = lambda name: True) -> str:
        """A name that is allowed, mostly one of the open sites'."""
        operands = [n for n in dict.fromkeys(reversed(self.operands)) if n in self.values]
        operands = [n for n in operands if allowed(n)]
        if operands and self.chance(30):
            return self.pick(operands[:RECENT])
        hot = [n for n in dict.fromkeys(reversed(self.hot)) if n in self.values and allowed(n)]
        if hot and self.chance(75):
            return self.pick(hot[: 2 * RECENT])
        every = [n for n in self.values if allowed(n)]
        if not every:
            raise Refused("there is no such tensor")
        return self.pick(every)


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
