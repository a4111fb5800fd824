"""A term as a value again: the graph node that holds it, or view ops on one that does.

Operands of a match may be derived (a key before the transposition that the pattern contains, a cast
that autocast does implicitly). The same code makes a fake tensor and, on FX proxies, new nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
from torch import fx

from tile_backend.lowering.identities_layout import full_permutation
from tile_backend.lowering.match import Match
from tile_backend.lowering.terms import Term


class Unrealisable(Exception):
    """The term has no node, and is no cast or view of one with known bounds."""


def realise(term: Term, leaf: Callable[[fx.Node], Any]) -> Any:
    """leaf maps a node to its fake value or to a proxy; views and casts are applied on top."""
    if term.node is not None:
        return leaf(term.node)
    whole = "cast" if term.made_of == (term.cast_of,) else term.op
    written = WRITTEN.get(whole)
    if written is None or len(term.made_of) != 1:
        raise Unrealisable(f"{term.op} is not a view of a value in the graph")
    return written(term, realise(term.made_of[0], leaf))


def sliced(term: Term, x: Any) -> Any:
    dim, *bounds = (known(a) for a in term.attrs)
    return x[(Ellipsis, slice(*bounds), *(slice(None),) * (-dim - 1))]


WRITTEN: Mapping[str, Callable[[Term, Any], Any]] = {
    "cast": lambda term, x: x.to(term.dtype),
    "permute": lambda term, x: x.permute(full_permutation(term.attrs, term.rank)),
    "slice": sliced,
    "select": lambda term, x: x.select(*(known(a) for a in term.attrs)),
    "reshape": lambda term, x: x.reshape(inferred(term.attrs)),
    "expand": lambda term, x: x.expand([known(size) for size in term.attrs]),
    "neg": lambda term, x: -x,
}
"""How each operation that is `realised` (see canonical_ops) is written, from the one operand."""


def results(match: Match, values: Sequence[Any]) -> list[Any]:
    """The op's results as the graph has them, after the spelling's finish and the match's view."""
    first, *others = values
    finish = match.pattern.spelling.finish
    first = finish(first) if finish else first
    return [first.permute(match.view) if match.view else first, *others]


def inferred(shape: Sequence[Any]) -> list[int]:
    """The shape for `reshape`, which works out one symbolic size by itself."""
    symbolic = [place for place, size in enumerate(shape) if isinstance(size, sympy.Expr)]
    inner = symbolic[0] if len(symbolic) == 1 and 0 not in shape else None
    return [-1 if place == inner else known(size) for place, size in enumerate(shape)]


def known(size: Any) -> int:
    if isinstance(size, sympy.Expr):
        raise Unrealisable(f"the size {size} is symbolic")
    return int(size)


def operands(match: Match, leaf: Callable[[fx.Node], Any]) -> Mapping[str, Any]:
    """The op's tensor arguments: the bound holes, through the spelling's transform."""
    bound = {name: realise(term, leaf) for name, term in match.operands.items()}
    transform = match.pattern.spelling.transform
    return transform(**bound) if transform else bound
