"""One site cut out of its graph: the code that it replaces, and the new code, with the same inputs.

The old code is the original nodes, not a reference of ours. With them comes what the rewrite has
explained away: what a mask is computed from, and whatever whole numbers and conditions are computed
from, up to inputs of the program, also across the calls of bodies. So both are given values that
can occur. Nothing of the graph is changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import custom_op, rewrite
from tile_backend.lowering.autocast_state import Autocast, autocast_at
from tile_backend.lowering.effects import called_name, is_barrier
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import hint, value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.real_tensors import CannotRun

MOST_NODES = 2000
"""That a mask may be computed from."""
RANDOM = frozenset(("rand", "randn", "randint", "rand_like", "randn_like", "dropout", "bernoulli"))


@dataclasses.dataclass(frozen=True)
class Alone:
    """original, new: take a value for each of `inputs`, return one for each root, as a tuple.

    inputs: nodes of the graphs. roots: what both compute, nodes of the graph. values: the fake
    tensors of all that the original code reads and makes. autocast: of the site. ops: in the new.
    """

    original: fx.GraphModule
    new: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    roots: tuple[fx.Node, ...]
    values: tuple[torch.Tensor, ...]
    autocast: tuple[Autocast, ...]
    ops: tuple[Op, ...]

    @property
    def key(self) -> Hashable:
        """Equal for sites of which one run says all: code, and what kinds of inputs it has."""
        codes = (calls(self.original.graph), calls(self.new.graph))
        return (*codes, tuple(map(kind, self.inputs)), self.ops, self.autocast)

    @property
    def trains(self) -> bool:
        """Whether a result has a gradient."""
        return any(value(root).requires_grad for root in self.roots)

    @property
    def device(self) -> torch.device:
        return torch.device(value(self.roots[0]).device)


def alone(candidate: Candidate, nesting: Nesting, overload: str = "default") -> Alone:
    """overload: of the ops, see custom_op. Raises CannotRun."""
    custom_op.define([candidate.match.fusion])
    cut = Cut(candidate, nesting)
    old, taken = cut.emitted(cut.inside)
    roots = candidate.extent.roots
    old.output(tuple(cut.found(taken, root) for root in roots))
    elided = set(candidate.extent.elided)
    new, taken = cut.emitted(node for node in cut.inside if node not in elided)
    tracer = rewrite.TracksNodes(new)

    def leaf(node: fx.Node) -> Any:
        found = cut.found(taken, node)
        return fx.Proxy(found, tracer) if isinstance(found, fx.Node) else found

    results = rewrite.replacement(candidate, tracer, leaf, lambda s: s.made(leaf), overload)
    for node in tracer.made:
        node.args = tuple(fx.node.map_aggregate(argument, constant) for argument in node.args)
    new.output(tuple(result.node for result in results))
    for graph in (old, new):
        graph.lint()
    fakes = (value(node) for node in (*cut.inputs, *cut.inside))
    return Alone(
        fx.GraphModule(torch.nn.Module(), old),
        fx.GraphModule(torch.nn.Module(), new),
        tuple(cut.inputs),
        roots,
        tuple(fake for fake in fakes if isinstance(fake, torch.Tensor)),
        autocast_at(candidate.root, nesting),
        ops_of(candidate),
    )


class Cut:
    """Which nodes come along. inside: in the order of the program; inputs: what they read."""

    def __init__(self, candidate: Candidate, nesting: Nesting) -> None:
        self.nesting = nesting
        self.equal = candidate.extent.equal
        self._rank = {graph: -i for i, graph in enumerate(nesting.effects)}
        self._inside: dict[fx.Node, None] = {}
        self._read: dict[fx.Node, None] = {}
        self._include(mask_roots(candidate), floats=True)
        self._check_moments(candidate)
        elided = candidate.extent.elided
        self._inside.update(dict.fromkeys(elided))
        read = [source for node in elided for source in node.all_input_nodes]
        self._include([*read, *candidate.extent.operands], floats=False)
        self._close_vmaps()
        self.inside = tuple(sorted(self._inside, key=self._position))
        self.inputs = tuple(
            sorted((n for n in self._read if n not in self._inside), key=self._position)
        )

    def _position(self, node: fx.Node) -> tuple[int, int]:
        """Graphs that make calls come before the bodies."""
        return self._rank[node.graph], self.nesting.effects[node.graph].position[node]

    def resolved(self, node: fx.Node) -> fx.Node:
        """The node that stands for this value: of equal ones the operand."""
        return self.equal.get(node, node)

    def outside(self, node: fx.Node) -> fx.Node | None:
        """What the first call of a body gives for its input; None where that is not known."""
        entries = self.nesting.entries[node.graph] if node.op == "placeholder" else ()
        return entries[0].operands.get(node) if entries else None

    def _include(self, wanted: Iterable[fx.Node], floats: bool) -> None:
        """Take these values along, and what they are computed from.

        floats: floating-point values as well; else these are inputs, which may be any numbers.
        """
        todo = [self.resolved(node) for node in wanted]
        while todo:
            node = todo.pop()
            if node in self._inside or len(self._inside) > MOST_NODES:
                continue
            fake = value(node)
            if not isinstance(fake, (torch.Tensor, tuple, list)) or isinstance(fake, torch.Size):
                continue  # a number: a constant, at the sizes that were captured
            any_number = isinstance(fake, torch.Tensor) and is_float(fake)
            outer = self.outside(node) if floats or not any_number else None
            if outer is not None:
                self.equal = {**self.equal, node: self.resolved(outer)}
                todo.append(self.resolved(outer))
            elif (any_number and not floats) or not self._can_run(node):
                self._read[node] = None
            else:
                self._inside[node] = None
                todo += [self.resolved(source) for source in node.all_input_nodes]
        if len(self._inside) > MOST_NODES:
            raise CannotRun(f"more than {MOST_NODES} operations lead to its mask")

    def _can_run(self, node: fx.Node) -> bool:
        """Whether it gives the same value whenever it runs, and without the program's writes."""
        if node.op not in ("call_function", "call_method"):
            return False
        if is_barrier(node) or called_name(node).rstrip("_") in RANDOM:
            return False
        if any(map(self._written_before(node), (node, *node.all_input_nodes))):
            return False
        several = (n for n in node.all_input_nodes if isinstance(value(n), (tuple, list)))
        return all(isinstance(value(n), torch.Size) or self._can_run(n) for n in several)

    def _written_before(self, moment: fx.Node) -> Callable[[fx.Node], bool]:
        """Asks of a node whether the program has written to its value before that moment."""
        effects = self.nesting.effects[moment.graph]
        last = effects.position[moment]
        return lambda node: any(effects.position[w] < last for w in effects.writes_to(node))

    def _check_moments(self, candidate: Candidate) -> None:
        """What the mask reads of a tensor is what the tensor was at first."""
        for source in candidate.call.sources.values() if candidate.call is not None else ():
            if source.before is not None and self._written_before(source.before)(source.node):
                raise CannotRun(f"its mask reads {source.node.name}, which the program wrote to")

    def _close_vmaps(self) -> None:
        """What was recorded inside torch.vmap runs inside: entering and leaving come along."""
        for graph in {node.graph for node in self._inside}:
            opened: list[fx.Node] = []
            span: list[fx.Node] = []
            for node in graph.nodes:
                span.append(node)
                name = called_name(node)
                if name.endswith("_increment_nesting"):
                    if not opened:
                        span = [node]
                    opened.append(node)
                elif name.endswith("_decrement_nesting") and opened:
                    opened.pop()
                    if not opened and any(n in self._inside for n in span):
                        ends = ("_increment_nesting", "_decrement_nesting")
                        around = (n for n in span if called_name(n).endswith(ends))
                        self._inside.update(dict.fromkeys(around))

    def found(self, taken: dict[fx.Node, fx.Node], node: fx.Node) -> Any:
        """The copy of a node, or the number that it stands for."""
        while node not in taken and node in self.equal:
            node = self.equal[node]
        if node in taken:
            return taken[node]
        known = constant(value(node))
        if known is None or isinstance(known, torch.Tensor):
            raise CannotRun(f"{node.name} is not there without the rest of the graph")
        return known

    def emitted(self, nodes: Iterable[fx.Node]) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        """A graph of these nodes and the inputs, under names that do not depend on the place."""
        graph, taken = fx.Graph(), dict[fx.Node, fx.Node]()
        for i, node in enumerate(self.inputs):
            taken[node] = graph.placeholder(f"input_{i}")

        def copied(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                return self.found(taken, argument)
            return constant(argument)

        for i, node in enumerate(nodes):
            args, kwargs = (fx.node.map_aggregate(a, copied) for a in (node.args, node.kwargs))
            taken[node] = graph.create_node(node.op, node.target, args, kwargs, f"value_{i}")  # type: ignore[arg-type]
        return graph, taken


def ops_of(candidate: Candidate) -> tuple[Op, ...]:
    call = candidate.call
    return () if call is None or candidate.plain else tuple(c.op for c in call.launched)


def calls(graph: fx.Graph) -> Hashable:
    """Equal for graphs of the same calls."""
    return tuple((node.op, node.target, str((node.args, node.kwargs))) for node in graph.nodes)


def kind(node: fx.Node) -> Hashable:
    """What of an input a kernel or a rounding could depend on."""
    fake = value(node)
    if not isinstance(fake, torch.Tensor):
        return type(fake).__name__
    layout = tuple(map(hint, fake.shape)), tuple(map(hint, fake.stride()))
    return fake.dtype, *layout, fake.device, fake.requires_grad


def mask_roots(candidate: Candidate) -> list[fx.Node]:
    """The values that the new code knows more of than their numbers: masks that were understood."""
    call, rule = candidate.call, candidate.match.fusion.mask
    if call is None or rule is None or not call.masked:
        return []
    terms = [candidate.match.operands.get(hole) for hole in rule.holes]
    masks = [term.node for term in terms if term is not None and term.node is not None]
    sources = [node for s in call.sources.values() for node in (s.node, *s.others)]
    return [*masks, *sources]


def is_float(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def constant(argument: Any) -> Any:
    """Symbolic numbers as what they were at capture; everything else as it is."""
    if isinstance(argument, torch.SymInt):
        return hint(argument)
    if isinstance(argument, (torch.SymFloat, torch.SymBool)):
        known = argument.node.hint if argument.node.has_hint() else None
        if known is None and not argument.node.expr.is_number:
            raise CannotRun("it depends on a number that is known at run time only")
        return type(known)(known) if known is not None else float(argument.node.expr)
    if isinstance(argument, (tuple, list)):
        return tuple(map(constant, argument))
    return argument
