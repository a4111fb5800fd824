"""Words for losses: cross-entropy, with the logits as rows of classes however they were flattened.

A loss does not care how its tokens are arranged. So a flattening of the logits is dropped, and a
shift of them (`logits[:, :-1]`) becomes one of what the last linear layer reads: the labels, which
are an operand, say which rows there are and in which order.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from tile_backend.lowering import identities_layout as layout
from tile_backend.lowering import shapes
from tile_backend.lowering.canonical_ops import having
from tile_backend.lowering.identities import build, cast
from tile_backend.lowering.terms import Term, TermTable
from tile_backend.lowering.vocabulary import Meaning, Result, is_number, word

EACH_LOGIT = having("elementwise")
"""What is done to one logit at a time, between the last layer and the loss."""


@word(F.cross_entropy)
def cross_entropy(
    t: TermTable,
    r: Result,
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: Any = -100,
    reduce: Any = None,
    reduction: Any = "mean",
    label_smoothing: Any = 0.0,
) -> Meaning:
    """cross_entropy(logits [..., V], labels, ignore_index, label_smoothing, reduction).

    In the result's dtype: autocast widens the logits first. With a weight per class, or with
    probabilities for labels, it is another operation.
    """
    if (size_average, reduce) != (None, None) or not is_number(label_smoothing):
        return None
    logits = classes_last(t, input, r)
    if logits is None or not isinstance(target, Term) or target.dtype is None:
        return None
    if target.dtype.is_floating_point:
        return build(t, "cross_entropy_of_probabilities", (logits, target), (), r.dtype, r.shape)
    numbers = (t.number(ignore_index), t.number(label_smoothing), t.number(reduction))
    if weight is not None:
        args = (logits, target, weight, *numbers)
        return build(t, "weighted_cross_entropy", args, (), r.dtype, r.shape)
    return build(t, "cross_entropy", (logits, target, *numbers), (), r.dtype, r.shape)


@word(F.nll_loss)
def nll_loss(
    t: TermTable,
    r: Result,
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: Any = -100,
    reduce: Any = None,
    reduction: Any = "mean",
) -> Meaning:
    """nll_loss(log_softmax(x), y) = cross_entropy(x, y)"""
    if (size_average, reduce) != (None, None) or not isinstance(input, Term):
        return None
    found = classes_last(t, input, r)
    if found is None or found.op != "log_softmax" or found.attrs != (-1,):
        args = (input, target) if isinstance(target, Term) else (input,)
        return build(t, "nll_loss", args, (), r.dtype, r.shape)
    return cross_entropy(
        t,
        r,
        # The classes are the second dimension again, as cross_entropy takes them.
        from_last(t, found.args[0]),
        target,
        weight,
        None,
        ignore_index,
        None,
        reduction,
    )


def classes_last(t: TermTable, x: Any, r: Result) -> Term | None:
    """The input of a loss [N, V, ...] as rows [..., V] in the result's dtype, not flattened."""
    if not isinstance(x, Term) or x.rank < 2 or not r.is_float:
        return None
    last = layout.permute(t, x, (-x.rank, *range(2 - x.rank, 0), 1 - x.rank))
    if last.op == "log_softmax":
        return last
    if last.op == "permute" and last.args[0].op == "log_softmax":
        inner = last.args[0]
        moved = layout.full_permutation(last.attrs, last.rank)
        if moved[-1] != inner.attrs[0]:
            return None
        source = layout.permute(t, inner.args[0], moved)
        return t.intern("log_softmax", (source,), (-1,), inner.dtype, last.shape)
    if last.op == "reshape" and last.args[0].op == "log_softmax" and keeps_classes(last):
        return last.args[0]
    return rows(t, cast(t, last, r.dtype), ())


def from_last(t: TermTable, x: Term) -> Term:
    """[..., V] as [N, V, ...]."""
    return layout.permute(t, x, (-x.rank, -1, *range(1 - x.rank, -1)))


def rows(t: TermTable, x: Term, moves: tuple[Term, ...]) -> Term:
    """x without a last flattening; other moves of rows are done to what the last layer reads.

    moves: those above x, the innermost first.
    """
    if (x.op == "slice" and x.attrs[0] < -1) or (x.op == "reshape" and keeps_classes(x)):
        return rows(t, x.args[0], (x, *moves))
    tensors = [a for a in x.args if a.dtype is not None]
    if x.op in EACH_LOGIT and len(tensors) == 1 and shapes.equal(tensors[0].shape, x.shape):
        inner = rows(t, tensors[0], moves)
        if inner is tensors[0]:
            return x  # a node holds it, perhaps of another region
        args = tuple(inner if a is tensors[0] else a for a in x.args)
        return t.intern(x.op, args, x.attrs, x.dtype, inner.shape)
    while moves and moves[-1].op == "reshape":
        moves = moves[:-1]
    if not moves:
        return x
    if x.op == "linear":
        hidden = moved(t, x.args[0], moves)
        shape = (*hidden.shape[:-1], x.shape[-1])
        return t.intern("linear", (hidden, *x.args[1:]), x.attrs, x.dtype, shape)
    return moved(t, x, moves)


def moved(t: TermTable, x: Term, moves: tuple[Term, ...]) -> Term:
    """The same rows of x, whatever its last dimension is."""
    for move in moves:
        if move.op == "slice":
            x = layout.slice_(t, x, *move.attrs)
        else:
            x = layout.reshape(t, x, (*move.shape[:-1], x.shape[-1]))
    return x


def keeps_classes(x: Term) -> bool:
    """Whether a reshape only arranges the rows in another way."""
    inner = x.args[0]
    return x.rank > 1 and inner.rank > 1 and shapes.same(inner.shape[-1], x.shape[-1])
