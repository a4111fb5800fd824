"""Masks as programs: captured as Dynamo does, read by `lowering.mask`, and held against themselves.

`check` evaluates the meaning at every index, with the tensors that it reads, and compares it with
the mask that the program computes. A meaning that says more or less than its program fails.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
import torch
from sympy.logic.boolalg import Boolean
from torch import fx

from tests.core_graph import capture
from tests.mask_evaluation import evaluated
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.mask import factors as named
from tile_backend.lowering.mask.factors import BATCH, HEAD, KEY, QUERY
from tile_backend.lowering.mask.meaning import Meaning, meaning_of
from tile_backend.lowering.mask.moments import Read
from tile_backend.lowering.mask.never_empty import sees_itself
from tile_backend.lowering.mask.reader import Reader
from tile_backend.lowering.node import shape, value

Program = Callable[..., torch.Tensor]
INDICES = (BATCH, HEAD, QUERY, KEY)


@dataclasses.dataclass(frozen=True)
class Found:
    """A program's mask: what it means, what it is, and the tensors that the meaning reads.

    never_empty: whether it was proven that every query sees a key. names: of reads in formulas.
    """

    meaning: Meaning
    mask: torch.Tensor
    never_empty: bool
    names: Mapping[str, Read]
    tensors: Mapping[Read, torch.Tensor]


def indices(x: torch.Tensor, offset: int = 0) -> tuple[torch.Tensor, ...]:
    """batch, query and key indices, as Transformers makes them."""
    batch = torch.arange(x.shape[0])[:, None, None, None]
    query = (torch.arange(x.shape[1]) + offset)[None, None, :, None]
    return batch, query, torch.arange(x.shape[1])[None, None, None, :]


def read(program: Program, hides: bool = False, **inputs: torch.Tensor) -> Found:
    """The program takes the inputs and returns a mask of rank 2 to 4, the last two q and k.

    What it returns beside the mask is ignored. The inputs stay as they are.
    """
    captured = capture(program, {name: given.clone() for name, given in inputs.items()})
    reader = Reader(Effects(captured.module.graph))
    meaning = meaning_in(captured.module.graph, hides, reader)
    recorder = Recorder(captured.module, reader.reads.values())
    with torch.no_grad():
        result = recorder.run(*(given.clone() for given in captured.inputs))
    mask = (result[0] if isinstance(result, (tuple, list)) else result).clone()
    never_empty = sees_itself(meaning, *(1, *mask.shape)[-2:])
    return Found(meaning, mask, never_empty, reader.reads, recorder.tensors)


def meaning_in(graph: fx.Graph, hides: bool = False, reader: Reader | None = None) -> Meaning:
    """Of what the graph returns first."""
    (output,) = graph.find_nodes(op="output")
    node = output.args[0][0]
    rows, columns = (1, 1, *shape(value(node)))[-2:]
    return meaning_of(node, reader or Reader(Effects(graph)), rows, columns, hides)


class Recorder(fx.Interpreter):
    """Runs a graph and keeps every tensor that a formula reads, as it was at the time."""

    def __init__(self, module: fx.GraphModule, reads: Iterable[Read]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.reads = tuple(reads)
        self.tensors: dict[Read, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        for read in self.reads:
            if read.before is n:
                self.tensors[read] = self.env[read.node].clone()
        result = super().run_node(n)
        for read in self.reads:
            if read.before is None and read.node is n:
                self.tensors[read] = result.clone()
        return result


def seen(found: Found, says: Callable[[Found, Any], Boolean] | None = None) -> torch.Tensor:
    """The mask that the meaning describes, evaluated index by index.

    says: a factor as a condition; by default that which the factor names.
    """
    size = (1, 1, *found.mask.shape)[-4:]
    parts = [says(found, f) if says else f.condition for f in found.meaning.factors]
    condition = sympy.And(*parts)
    made = torch.zeros(size, dtype=torch.bool)
    for index in itertools.product(*map(range, size)):
        at = dict(zip(INDICES, index, strict=True))
        made[index] = evaluated(condition, at, functools.partial(element, found))
    return made


def element(found: Found, name: str, place: tuple[int, ...]) -> int:
    """What the tensor of that name holds there."""
    return int(found.tensors[found.names[name]][place])


def said(found: Found, factor: named.Factor) -> Boolean:
    """A factor as its fields describe it, which is all that a kernel gets."""

    def at(amount: named.Amount) -> sympy.Expr:
        read = amount.read
        return amount.known + (int(found.tensors[read][amount.index]) if read is not None else 0)

    def row(read: Read, by_batch: bool, place: sympy.Expr) -> sympy.Expr:
        name = next(name for name, other in found.names.items() if other == read)
        leading = (BATCH if by_batch else 0,) * (found.tensors[read].dim() - 1)
        return sympy.Function(name, integer=True)(*leading, place)

    match factor:
        case named.Causal():
            return QUERY + at(factor.offset) >= KEY
        case named.Prefix():
            return sympy.Or(at(factor.size) > KEY, QUERY + at(factor.offset) >= KEY)
        case named.Window():
            return QUERY + at(factor.offset) - KEY < factor.size
        case named.Ahead():
            return KEY - QUERY - at(factor.offset) < factor.size
        case named.Chunk():
            own = sympy.floor((QUERY + at(factor.offset)) / factor.size)
            return sympy.Eq(own, sympy.floor(KEY / factor.size))
        case named.Segments():
            own = row(factor.ids, factor.by_batch, QUERY + at(factor.offset))
            return sympy.Eq(own, row(factor.ids, factor.by_batch, KEY))
        case named.Padding(keep=keep) if keep is not None:
            return sympy.Ne(row(keep, factor.by_batch, KEY), 0)
    return factor.condition


def visible(mask: torch.Tensor, hides: bool) -> torch.Tensor:
    """Which keys the mask shows, [B, H, S, L]."""
    shown = mask if mask.dtype is torch.bool else mask == 0
    return (~shown if hides else shown)[(None,) * (4 - mask.dim())]


def check(program: Program, hides: bool = False, **inputs: torch.Tensor) -> str:
    """The meaning in words, after it was held against the mask itself."""
    found = read(program, hides, **inputs)
    assert not found.meaning.problem, found.meaning.problem
    shown = visible(found.mask, hides)
    assert torch.equal(seen(found), shown), str(found.meaning)
    assert torch.equal(seen(found, said), shown), str(found.meaning)
    assert not found.never_empty or bool(shown.any(-1).all()), str(found.meaning)
    return str(found.meaning)
