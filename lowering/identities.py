"""Identities between terms: each is one small rule under the equation that it states.

`build` is the only way to make a compound term: it tries the rules of the operation in order and
interns what none of them rewrites. A rule may not merge values that round differently in low
precision; rules that move an error by an ulp of float32 say so. Here are the rules for casts;
identities_arithmetic and identities_layout have the others.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tile_backend.lowering import shapes
from tile_backend.lowering.canonical_ops import having
from tile_backend.lowering.node import Size
from tile_backend.lowering.terms import Attributes, Term, TermTable

Args = tuple[Term, ...]
Rule = Callable[[TermTable, Args, Attributes, Any, tuple[Size, ...]], Term | None]
RULES: dict[str, list[Rule]] = {}

LOW_PRECISION = frozenset((torch.bfloat16, torch.float16))
EXACT, ELEMENTWISE, ROUNDS_ONCE = map(having, ("exact", "elementwise", "rounds_once"))

_noted: contextvars.ContextVar[list[Callable[..., Any]] | None] = contextvars.ContextVar(
    "noted_identities", default=None
)


@contextlib.contextmanager
def noted() -> Iterator[list[Callable[..., Any]]]:
    """The rules that rewrite a term inside, in the order in which they do."""
    rules: list[Callable[..., Any]] = []
    token = _noted.set(rules)
    try:
        yield rules
    finally:
        _noted.reset(token)


def note(applied: Callable[..., Any]) -> None:
    """A rule has rewritten a term."""
    rules = _noted.get()
    if rules is not None:
        rules.append(applied)


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for op in ops:
            RULES.setdefault(op, []).append(function)
        return function

    return register


def build(
    table: TermTable,
    op: str,
    args: tuple[Term, ...],
    attrs: Attributes = (),
    dtype: torch.dtype | None = None,
    shape: tuple[Size, ...] = (),
) -> Term:
    moved = squeezed_operand(table, op, args, attrs, dtype, shape)
    if moved is not None:
        note(squeezed_operand)
        return moved
    for candidate in RULES.get(op, ()):
        found = candidate(table, args, attrs, dtype, shape)
        if found is not None:
            note(candidate)
            return found
    return table.intern(op, args, attrs, dtype, shape)


def squeezed_operand(
    table: TermTable,
    op: str,
    args: tuple[Term, ...],
    attrs: Attributes,
    dtype: torch.dtype | None,
    shape: tuple[Size, ...],
) -> Term | None:
    """f(squeeze(x)) = squeeze(f(x)) for an element-wise f of one tensor (and a number).

    Where the last dimension is among those that go. So a mean over it, whose root is unsqueezed
    later, is the mean that keeps it.
    """
    tensors = [a for a in args if a.dtype is not None]
    if op not in ELEMENTWISE or len(tensors) != 1 or tensors[0].op != "reshape":
        return None
    (squeezed,) = tensors
    wide = squeezed.args[0]
    if wide.rank <= squeezed.rank or wide.shape[-1] != 1:
        return None
    if [s for s in wide.shape if s != 1] != [s for s in squeezed.shape if s != 1]:
        return None
    inner = build(
        table, op, tuple(wide if a is squeezed else a for a in args), attrs, dtype, wide.shape
    )
    return build(table, "reshape", (inner,), shape, dtype, shape)


def cast(table: TermTable, term: Term, dtype: torch.dtype) -> Term:
    """The value in that dtype. Of one that is moved data, the casts are inside, and `cast_of` says
    what it was: the graph may hold that where it holds none of the parts cast.
    """
    if term.dtype is None or term.dtype == dtype:  # cast(x, x.dtype) = x
        return term
    found = build(table, "cast", (term,), (dtype,), dtype, term.shape)
    known = found.cast_of is not None and found.cast_of.node is not None
    if term.op in EXACT and found.op != "cast" and not known:
        found.cast_of = term
    return found


# --- casts ----------------------------------------------------------------------------------------


@rule("cast")
def widen_then_narrow(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """narrow(widen(x)) = x"""
    (inner,) = args
    if inner.op == "cast" and dtype in LOW_PRECISION and inner.dtype == torch.float32:
        source: Term = inner.args[0]
        return source if source.dtype == dtype else None
    return None


@rule("cast")
def cast_of_moved_data(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """cast(move(x)) = move(cast(x)), and of a negation, for casts between floating-point types"""
    (inner,) = args
    if inner.dtype is None or not (dtype.is_floating_point and inner.dtype.is_floating_point):
        return None
    if inner.op not in EXACT:
        return None
    parts = tuple(cast(t, part, dtype) for part in inner.args)
    return build(t, inner.op, parts, inner.attrs, dtype, shape)


@rule("cast")
def one_rounding(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """narrow(f(widen(x))) = f(x), which torch computes in float32 and rounds once"""
    (inner,) = args
    if dtype not in LOW_PRECISION or inner.dtype != torch.float32 or inner.op not in ROUNDS_ONCE:
        return None
    sources = [before_cast(a, dtype) for a in inner.args]
    if len(sources) != 1 or sources[0] is None:
        return None
    return build(t, inner.op, (sources[0],), inner.attrs, dtype, shape)


@rule("cast")
def one_rounding_of_two(
    t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any
) -> Term | None:
    """narrow(widen(x) * widen(y)) = x * y, and of a sum: torch computes these in float32, too"""
    (inner,) = args
    if dtype not in LOW_PRECISION or inner.dtype != torch.float32 or inner.op not in ROUNDS_ONCE:
        return None
    sources = [before_cast(a, dtype) for a in inner.args]
    if len(sources) != 2 or sources[0] is None or sources[1] is None:
        return None
    return build(t, inner.op, (sources[0], sources[1]), (), dtype, shape)


def before_cast(term: Term, dtype: torch.dtype) -> Term | None:
    """The value of that dtype that a term is a cast of; None where it is none."""
    source = term.args[0] if term.op == "cast" else term.cast_of
    return source if source is not None and source.dtype == dtype else None


def operand(
    table: TermTable, term: Term, shape: tuple[Size, ...], others: tuple[Term, ...]
) -> Term:
    """An operand of an element-wise op, without the expansion that broadcasting does by itself.

    expand(x) op y = x op y and x[None] op y = x op y, where the result keeps its shape.
    """
    while term.op in ("expand", "reshape"):
        inner = term.args[0]
        only_ones = term.op == "expand" or shapes.adds_leading_ones(inner.shape, term.shape)
        rest = shapes.broadcast([inner.shape, *(o.shape for o in others)])
        if not only_ones or rest != shape:
            break
        term = inner
    return term
