"""Do the sizes of a match fit together? Equal names of dimensions are equal sizes.

Three things state sizes: the dimensions of the holes, the groups of holes that are alike, and the
attributes of the pattern (a slice up to D // 2). Masks broadcast and state nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy

from tile_backend.lowering import shapes
from tile_backend.lowering.fusion import Tensor
from tile_backend.lowering.node import Size
from tile_backend.lowering.terms import Term
from tile_backend.lowering.trace import Pattern


def agree(
    pattern: Pattern, operands: Mapping[str, Term], stated: Iterable[tuple[sympy.Expr, Size]]
) -> bool:
    """operands: by hole. stated: expressions over dimension names, and what each has to be."""
    sizes = named(pattern, operands)
    if sizes is None or not has_ratio(sizes, pattern.spelling.table_ratio):
        return False
    for group in pattern.fusion.alike:
        members = [operands[name].shape for name in group if name in operands]
        if not all(shapes.equal(members[0], other) for other in members[1:]):
            return False
    values = {sympy.Symbol(n, integer=True, positive=True): s for n, s in sizes.items()}
    return all(shapes.same(plain(wanted.subs(values)), actual) for wanted, actual in stated)


def named(pattern: Pattern, operands: Mapping[str, Term]) -> dict[str, Size] | None:
    """The size of each named dimension; None where two holes disagree about one."""
    grouped = pattern.spelling.grouped
    sizes: dict[str, Size] = {}
    for name, term in operands.items():
        declared = pattern.fusion.holes[name]
        assert isinstance(declared, Tensor)
        if declared.dtype in ("any", "bool"):
            continue
        dims = [d for d in declared.dims.split() if d != "..."]
        for dim, actual in zip(reversed(dims), reversed(term.shape), strict=False):
            key = "K" if dim == "H" and not grouped else dim
            if not shapes.same(sizes.setdefault(key, actual), actual):
                return None
    if not grouped and "K" in sizes:
        sizes["H"] = sizes["K"]
    return sizes


def has_ratio(sizes: Mapping[str, Size], ratio: float | None) -> bool:
    """Dimension R over dimension D is `ratio`, where both occur and it is not None."""
    if ratio is None or "R" not in sizes or "D" not in sizes:
        return True
    return shapes.same(sizes["R"] * round(1 / ratio), sizes["D"])


def plain(expression: Any) -> Size:
    return int(expression) if expression.is_number else expression
