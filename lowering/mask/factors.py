"""What a mask is a product of: conditions that have a name, and what they say in plain fields.

Query q stands at position q + offset, key k at position k. A kernel has one offset, so what it can
do is a product whose factors share one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import sympy
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from tile_backend.lowering.mask.moments import Read

BATCH, HEAD, QUERY, KEY = (sympy.Symbol(n, integer=True, nonnegative=True) for n in "bhqk")
INDICES = frozenset((BATCH, HEAD, QUERY, KEY))


@dataclasses.dataclass(frozen=True)
class Amount:
    """An integer that is the same for all of a mask: a size and, perhaps, an element of a tensor.

    index: which element; the tensor may have more than that one.
    """

    known: sympy.Expr
    read: Read | None = None
    index: tuple[int, ...] = ()

    def plus(self, more: sympy.Expr) -> Amount:
        return dataclasses.replace(self, known=sympy.expand(self.known + more))

    def __str__(self) -> str:
        if self.read is None:
            return str(self.known)
        place = f"[{', '.join(map(str, self.index))}]" if any(self.index) else ""
        name = f"{self.read}{place}"
        return name if self.known == 0 else f"{name} + {self.known}"


def amount(value: sympy.Expr, reads: Mapping[str, Read]) -> Amount | None:
    """None for what depends on an index, or on tensors in another way than as one summand."""
    value = sympy.expand(value)
    found = list(value.atoms(AppliedUndef))
    known = sympy.expand(value - sum(found))
    if len(found) > 1 or known.has(AppliedUndef) or INDICES & value.free_symbols:
        return None
    if not known.is_integer:
        return None
    if not found:
        return Amount(known)
    if not all(index.is_Integer for index in found[0].args):
        return None
    return Amount(known, reads[str(found[0].func)], tuple(map(int, found[0].args)))


@dataclasses.dataclass(frozen=True)
class Factor:
    """What a query must fulfil to see a key. condition: the part of the mask's formula it names."""

    condition: Boolean

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclasses.dataclass(frozen=True)
class Causal(Factor):
    """k <= q + offset."""

    offset: Amount

    def __str__(self) -> str:
        return "causal" if self.offset == NOTHING else f"causal({self.offset})"


@dataclasses.dataclass(frozen=True)
class Prefix(Factor):
    """k < size or k <= q + offset: causal, but for keys that every query sees."""

    size: Amount
    offset: Amount

    def __str__(self) -> str:
        return f"prefix({self.size})" + ("" if self.offset == NOTHING else f" at {self.offset}")


@dataclasses.dataclass(frozen=True)
class Sized(Factor):
    """A size, and the offset of the queries' positions."""

    size: sympy.Expr
    offset: Amount

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}({self.size})"


@dataclasses.dataclass(frozen=True)
class Window(Sized):
    """(q + offset) - k < size: a query sees itself and the size - 1 keys before it."""


@dataclasses.dataclass(frozen=True)
class Ahead(Sized):
    """k - (q + offset) < size: and the size - 1 keys after it."""


@dataclasses.dataclass(frozen=True)
class Chunk(Sized):
    """(q + offset) // size == k // size."""


@dataclasses.dataclass(frozen=True)
class Segments(Factor):
    """ids[b, q + offset] == ids[b, k]; ids[0, ..] or, of one dimension, ids[..] if not by_batch."""

    ids: Read
    by_batch: bool
    offset: Amount


@dataclasses.dataclass(frozen=True)
class Padding(Factor):
    """A condition on key and batch entry alone, read from tensors.

    keep: where it is not None, the condition is that keep[b, k] is not zero; keep[0, k] or, of one
    dimension, keep[k] if not by_batch. It may be longer than there are keys.
    """

    keep: Read | None
    by_batch: bool

    @property
    def plain(self) -> bool:
        """Whether a tensor says it as it is."""
        return self.keep is not None


@dataclasses.dataclass(frozen=True)
class Unexplained(Factor):
    """Anything else: the mask's own tensor says it."""

    def __str__(self) -> str:
        return "tensor"


NOTHING = Amount(sympy.Integer(0))
ALWAYS = Factor(sympy.true)
"""Holds for all queries and keys that there are."""
ORDER = (Causal, Prefix, Ahead, Window, Chunk, Segments, Padding, Unexplained)
