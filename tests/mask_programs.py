"""Masks as programs: captured as Dynamo does, read by `lowering.mask`, and held against themselves.

`check` evaluates the meaning at every index, with the tensors that it reads, and compares it with
the mask that the program computes. A meaning that says more or less than its program fails.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from sympy.core.function import AppliedUndef
from torch import fx

from tests.core_graph import capture
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.mask.factors import BATCH, HEAD, KEY, QUERY
from tile_backend.lowering.mask.meaning import Meaning, meaning_of
from tile_backend.lowering.mask.reader import Reader
from tile_backend.lowering.node import shape, value

Program = Callable[..., torch.Tensor]
INDICES = (BATCH, HEAD, QUERY, KEY)


@dataclasses.dataclass(frozen=True)
class Read:
    """A program's mask: what it means, what it is, and the tensors of its graph by name."""

    meaning: Meaning
    mask: torch.Tensor
    tensors: Mapping[str, torch.Tensor]


def indices(x: torch.Tensor, offset: int = 0) -> tuple[torch.Tensor, ...]:
    """batch, query and key indices, as Transformers makes them."""
    batch = torch.arange(x.shape[0])[:, None, None, None]
    query = (torch.arange(x.shape[1]) + offset)[None, None, :, None]
    return batch, query, torch.arange(x.shape[1])[None, None, None, :]


def read(program: Program, hides: bool = False, **inputs: torch.Tensor) -> Read:
    """The program takes the inputs and returns a mask of rank 2 to 4, the last two q and k."""
    captured = capture(program, inputs)
    found = meaning_in(captured.module.graph, hides)
    recorder = Recorder(captured.module)
    with torch.no_grad():
        result = recorder.run(*captured.inputs)
    mask = (result[0] if isinstance(result, (tuple, list)) else result).clone()
    return Read(found, mask, recorder.tensors)


def meaning_in(graph: fx.Graph, hides: bool = False) -> Meaning:
    """Of what the graph returns."""
    (output,) = graph.find_nodes(op="output")
    node = output.args[0][0]
    rows, columns = (1, 1, *shape(value(node)))[-2:]
    return meaning_of(node, Reader(Effects(graph)), rows, columns, hides)


class Recorder(fx.Interpreter):
    """Runs a graph and keeps every tensor as it was when it was made."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.tensors[n.name] = result.clone()
        return result


def seen(found: Read) -> torch.Tensor:
    """The mask that the meaning describes, evaluated index by index."""
    size = (1, 1, *found.mask.shape)[-4:]
    condition = sympy.And(*(factor.condition for factor in found.meaning.factors))
    made = torch.zeros(size, dtype=torch.bool)
    for index in itertools.product(*map(range, size)):
        here = condition.subs(dict(zip(INDICES, index, strict=True)), simultaneous=True)
        while reads := here.atoms(AppliedUndef):
            here = here.xreplace({read: element(found, read) for read in reads if known(read)})
        made[index] = bool(here)
    return made


def known(read: Any) -> bool:
    """Whether the indices of a read are numbers."""
    return all(index.is_Integer for index in read.args)


def element(found: Read, read: Any) -> sympy.Integer:
    """What the tensor of that name holds there."""
    place = tuple(int(index) for index in read.args)
    return sympy.Integer(int(found.tensors[str(read.func)][place]))


def visible(mask: torch.Tensor, hides: bool) -> torch.Tensor:
    """Which keys the mask shows, [B, H, S, L]."""
    shown = mask if mask.dtype is torch.bool else mask == 0
    return (~shown if hides else shown)[(None,) * (4 - mask.dim())]


def check(program: Program, hides: bool = False, **inputs: torch.Tensor) -> str:
    """The meaning in words, after it was held against the mask itself."""
    found = read(program, hides, **inputs)
    assert not found.meaning.problem, found.meaning.problem
    assert torch.equal(seen(found), visible(found.mask, hides)), str(found.meaning)
    return str(found.meaning)
