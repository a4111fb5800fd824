"""A Dynamo graph as canonical terms: one term (or a tuple of them) per node.

What the vocabulary does not know, what is written to later, and what is no dense tensor becomes a
leaf: a value that patterns may take as an operand but never look into. What is written to has a
leaf for each of its versions, and a copy of it that outlives its version is a leaf of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tile_backend.lowering import (
    failure,
    guards,
    identities_arithmetic,
    vocabulary_layout,
    vocabulary_loss,
    vocabulary_nn,
    vocabulary_pointwise,
)
from tile_backend.lowering.effects import Effects, storages
from tile_backend.lowering.mask.reader import Reader
from tile_backend.lowering.node import shape, size, value
from tile_backend.lowering.terms import SymbolicNumber, Term, TermTable
from tile_backend.lowering.uses import Uses
from tile_backend.lowering.vocabulary import meaning_of

__all__ = ["CanonicalGraph", "is_dense"]

REGISTERED = (
    identities_arithmetic,
    vocabulary_layout,
    vocabulary_loss,
    vocabulary_nn,
    vocabulary_pointwise,
)
"""Imported for the rules and words that they register."""

CALLS = ("call_function", "call_method")


def is_dense(tensor: Any) -> bool:
    """A plain strided tensor, which our ops can take.

    No DTensor, nested or sparse tensor, and none that stands for others inside torch.func.vmap or
    grad.
    """
    return (
        isinstance(tensor, torch.Tensor)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not is_traceable_wrapper_subclass(tensor)
        and tensor.layout is torch.strided
        and not tensor.is_nested
    )


def is_transformed(tensor: Any) -> bool:
    """Whether a tensor stands for others inside torch.func.vmap or grad."""
    return isinstance(tensor, torch.Tensor) and bool(
        torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


class CanonicalGraph:
    """The terms of one graph.

    term:  node -> term, for nodes with one tensor value.
    nodes: term -> the nodes that have it and that something needs, in graph order.
    uses:  which nodes are needed, and by what.
    masks: formulas of tensors, see mask; of a body, one reader for each way to it.
    """

    def __init__(
        self,
        graph: fx.Graph,
        masks: tuple[Reader, ...] = (),
        reaches: Callable[[fx.Node], bool] | None = None,
    ) -> None:
        """reaches: whether the value of a node of a graph outside can be had here."""
        self.graph = graph
        self.reaches = reaches or (lambda node: node.graph is graph)
        self.masks = masks or (Reader(Effects(graph)),)
        self.effects = self.masks[0].effects
        self.uses = Uses(self.effects)
        self.table = TermTable()
        self.term: dict[fx.Node, Term] = {}
        self.nodes: dict[Term, list[fx.Node]] = {}
        self._parts: dict[fx.Node, tuple[Term, ...]] = {}
        self._reader: fx.Node
        """The node that is being added."""
        for node in graph.nodes:
            failure.instead(None, "reading the graph", node, self._add, node)

    def _add(self, node: fx.Node) -> None:
        self.table.region, self._reader = self.effects.region[node], node
        fake = value(node)
        if isinstance(fake, (tuple, list)) and node.op in CALLS:
            found = self._meaning(node, fake)
            if isinstance(found, tuple) and node not in self.effects.unsettled:
                self._parts[node] = found
            return
        if not isinstance(fake, torch.Tensor):
            return
        term = None
        known = is_dense(fake) or is_transformed(fake)  # found there as well, and declined
        if node.op in CALLS and known and node not in self.effects.unsettled:
            found = self._meaning(node, fake)
            if isinstance(found, Term) and agrees(found, fake) and self._is(node, found):
                term = found
        if term is None:
            term = self.table.leaf(node, fake.dtype, shape(fake))
        self.term[node] = term
        if node not in self.uses.needed:
            return
        if term.node is None:
            term.node = node
        self.nodes.setdefault(term, []).append(node)

    @functools.cached_property
    def exposed(self) -> frozenset[StorageWeakRef]:
        """The storages of the graph's inputs and results, which others can write to."""
        ends = [*self.graph.find_nodes(op="placeholder"), *self.graph.output_node().all_input_nodes]
        return frozenset(storage for node in ends for storage in storages(node))

    def parts(self, node: fx.Node) -> tuple[Term, ...]:
        """The term of a node, or those of its results as far as they are known."""
        return (self.term[node],) if node in self.term else self._parts.get(node, ())

    def _is(self, node: fx.Node, found: Term) -> bool:
        """Whether the node that holds the term already is this value from here on.

        A copy is not its source when the source is written to later, nor when it is made without
        grad: the source carries a gradient.
        """
        source, inside = found.node, self.effects.without_grad
        if source is None:
            return True
        if self.effects.writer_from(source, node, None) is not None:
            return False
        return node not in inside or source in inside

    def _versioned(self, node: fx.Node) -> Term:
        """A node that is written to, as the node that is being added finds it."""
        version = self.effects.version(node, self._reader)
        if version == 0:
            return self.term[node]
        fake = value(node)
        term = self.table.leaf(node, fake.dtype, shape(fake), version)
        self.nodes.setdefault(term, [node])
        return term

    def _meaning(self, node: fx.Node, fake: Any) -> Any:
        """None where it is not known, or where a word or an identity fails."""
        return failure.instead(None, "naming what is done", node, self._known, node, fake)

    def _known(self, node: fx.Node, fake: Any) -> Any:
        if any(a not in self.term and is_unreadable(a) for a in node.all_input_nodes):
            return None
        args = self._read(node.args)
        kwargs = {name: self._read(argument) for name, argument in node.kwargs.items()}
        return meaning_of(self.table, node.target, args, kwargs, fake)

    def _read(self, argument: Any) -> Any:
        """Nodes as terms or numbers, containers element by element, everything else as it is."""
        if isinstance(argument, fx.Node):
            return self._read_node(argument)
        if isinstance(argument, (tuple, list)):
            return tuple(self._read(a) for a in argument)
        if isinstance(argument, slice):
            return slice(*(self._read(p) for p in (argument.start, argument.stop, argument.step)))
        return argument

    def _read_node(self, node: fx.Node) -> Any:
        if node in self.term:
            return self._versioned(node) if node in self.effects.unsettled else self.term[node]
        if node in self._parts:
            return self._parts[node]
        known = value(node)
        if isinstance(known, torch.SymInt):
            return size(known)
        if isinstance(known, torch.SymFloat):
            settled = known.node.expr  # a number where Dynamo's guards have fixed it
            return float(settled) if settled.is_number else SymbolicNumber(node)
        if isinstance(known, torch.SymBool):
            return guards.answer(known)
        return tuple(size(s) for s in known) if isinstance(known, torch.Size) else known


def is_unreadable(node: fx.Node) -> bool:
    """A tensor that has no term, or a flag that the compiled code leaves open."""
    known = value(node)
    if isinstance(known, torch.SymBool):
        return guards.answer(known) is None
    return isinstance(known, torch.Tensor)


def agrees(term: Term, fake: torch.Tensor) -> bool:
    """A word that misjudged a call must not spoil the graph: dtype and rank have to fit."""
    return term.dtype == fake.dtype and term.rank == fake.dim()
