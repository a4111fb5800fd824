"""How a value differs from what a spelling has in its place, as a Reason."""

from __future__ import annotations

import itertools
from typing import Any

import sympy
import torch
from torch import fx

from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.node import place, value
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.terms import Term, number_of


def difference(wanted: Term, term: Term, text: str = "") -> Reason:
    node = term.node.name if term.node is not None else ""
    where = place(term.node)
    if text:
        return Reason(ReasonKind.OP_DIFFERS, f"{text}{where}", node)
    if wanted.op == "scalar":
        text = f"{wanted.attrs[0]} is a tensor{where}, where a number is expected"
        return Reason(ReasonKind.SCALAR_IS_TENSOR, text, node)
    if wanted.op == "number":
        actual = number_of(term)
        seen = term.op if actual is None else f"{actual:g}"
        text = f"{seen}{where} stands where the number {number_of(wanted):g} is expected"
        return Reason(ReasonKind.CONSTANT_DIFFERS, text, node)
    if wanted.op == "hole" and (actual := number_of(term)) is not None:
        text = f"{wanted.attrs[0]} is the number {actual:g}{where}, where a tensor is expected"
        return Reason(ReasonKind.OP_DIFFERS, text, node)
    if wanted.op == "hole" and wanted.dtype != term.dtype:
        text = f"{wanted.attrs[0]} is {named(term.dtype)}{where}, not {named(wanted.dtype)}"
        return Reason(ReasonKind.DTYPE_LIMIT, text, node)
    if wanted.op == "hole":
        text = f"{wanted.attrs[0]} has {term.rank} dimensions{where}, not {wanted.rank}"
        return Reason(ReasonKind.OP_DIFFERS, text, node)
    if wanted.op == "cast":
        text = f"a cast to {named(wanted.attrs[0])} is missing before {term.op}{where}"
        return Reason(ReasonKind.CAST_MISSING, text, node)
    if term.op == "cast":
        text = f"a cast to {named(term.attrs[0])}{where} stands before {wanted.op}"
        return Reason(ReasonKind.CAST_EXTRA, text, node)
    text = f"{term.op}{where} stands where {wanted.op} is expected"
    return Reason(ReasonKind.OP_DIFFERS, text, node)


def named(dtype: object) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def constant(wanted: Term, term: Term) -> Reason:
    node = term.node.name if term.node is not None else ""
    pairs = list(itertools.zip_longest(wanted.attrs, term.attrs))
    fixed = [p for p in pairs if p[0] != p[1] and not isinstance(p[0], sympy.Expr)]
    expected, found = map(shown, (fixed or pairs)[0])
    where = f"{term.op}{place(term.node)}"
    if OPERATIONS[term.op].reduces:
        text = f"{where} is over dimension {found}, not {expected}"
    else:
        text = f"{where} has {found} where {expected} is expected"
    return Reason(ReasonKind.CONSTANT_DIFFERS, text, node)


def shown(attribute: object) -> str:
    """A dimension, a dtype, a word, as a person writes it; several in brackets."""
    if isinstance(attribute, tuple) and len(attribute) == 1:
        return shown(attribute[0])
    return named(attribute)


def described(argument: Any) -> str:
    """An argument as a person writes it; a tensor as its dtype and shape."""
    if not isinstance(argument, fx.Node):
        return repr(argument)
    known = value(argument)
    if not isinstance(known, torch.Tensor):
        return str(known)
    return f"{named(known.dtype)}{list(known.shape)}"
