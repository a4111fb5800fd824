"""Do the sizes of a match fit together? Equal names of dimensions are equal sizes.

Three things state sizes: the dimensions of the holes, the groups of holes that are alike, and the
attributes of the pattern (a slice up to D // 2). Masks broadcast and state nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import sympy

from tile_backend.lowering import shapes
from tile_backend.lowering.fusion import Tensor
from tile_backend.lowering.node import Size
from tile_backend.lowering.terms import Term
from tile_backend.lowering.trace import Pattern


class Equation(NamedTuple):
    """Two sizes that have to be one.

    what: the dimension in the words of the pattern; size: a formula of it, to stand before that.
    """

    what: str
    one: Size
    other: Size
    size: sympy.Expr | None = None

    @property
    def words(self) -> str:
        size = "" if self.size is None else str(self.size).removeprefix("(").removesuffix(")")
        return f"{size} {self.what}".strip()

    @property
    def holds(self) -> bool:
        return shapes.same(self.one, self.other)


def disagreement(
    pattern: Pattern, operands: Mapping[str, Term], stated: Iterable[tuple[sympy.Expr, Size]]
) -> Equation | None:
    """The first equation that does not hold, or not for all sizes; None where all hold.

    operands: by hole. stated: expressions over dimension names, and what each has to be.
    """
    return next((e for e in equations(pattern, operands, stated) if not e.holds), None)


def equations(
    pattern: Pattern, operands: Mapping[str, Term], stated: Iterable[tuple[sympy.Expr, Size]]
) -> Iterator[Equation]:
    """One is made when all before it hold."""
    sizes: dict[str, Size] = {}
    yield from of_dimensions(pattern, operands, sizes)
    ratio = pattern.spelling.table_ratio
    if ratio is not None and "R" in sizes and "D" in sizes:
        yield Equation("the width of the tables", sizes["R"] * round(1 / ratio), sizes["D"])
    for group in pattern.fusion.alike:
        members = [name for name in group if name in operands]
        for name in members[1:]:
            first, shape = operands[members[0]].shape, operands[name].shape
            yield Equation(f"the rank of {name}", len(first), len(shape))
            for one, other in zip(first, shape, strict=True):
                yield Equation(f"a dimension of {members[0]} and {name}", one, other)
    values = {sympy.Symbol(n, integer=True, positive=True): s for n, s in sizes.items()}
    for wanted, actual in stated:
        yield Equation("of an operand", plain(wanted.subs(values)), actual, wanted)


def of_dimensions(
    pattern: Pattern, operands: Mapping[str, Term], sizes: dict[str, Size]
) -> Iterator[Equation]:
    """Of each named dimension in two operands. Their sizes are put into `sizes`."""
    grouped = pattern.spelling.grouped
    for name, term in operands.items():
        declared = pattern.fusion.holes[name]
        assert isinstance(declared, Tensor)
        if declared.dtype in ("any", "bool"):
            continue
        dims = [d for d in declared.dims.split() if d != "..."]
        for dim, actual in zip(reversed(dims), reversed(term.shape), strict=False):
            key = "K" if dim == "H" and not grouped else dim
            yield Equation(f"dimension {dim} of {name}", actual, sizes.setdefault(key, actual))
    if not grouped and "K" in sizes:
        sizes["H"] = sizes["K"]


def plain(expression: Any) -> Size:
    return int(expression) if expression.is_number else expression
