"""A part of a graph as code of its own: sites with their inputs, and neighbours where wanted.

With the nodes comes what a rewrite has explained away: what a mask is computed from, and whatever
whole numbers and conditions are computed from, up to inputs of the program, also across the calls
of bodies. So the code can be given values that can occur. The program's writes to what the part
reads come along in their places, on copies of the inputs. Nothing of the graph is changed.

Longer than 300 lines because what comes along, and how it is written down, is one decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import rewrite
from tile_backend.lowering.effects import is_barrier, is_opaque_call, storages, written
from tile_backend.lowering.extent import copies
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import called, called_name, hint, value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.real_tensors import CannotRun
from tile_backend.lowering.uses import values_read

MOST_NODES = 2000
"""That a mask may be computed from."""
RANDOM = frozenset(("rand", "randn", "randint", "rand_like", "randn_like", "dropout", "bernoulli"))


class Cut:
    """Which nodes come along. inside: in the order of the program; inputs: what they read.

    candidates: the sites, in the order of the program. neighbours: nodes of their graph that come
    along as they are. wanted: the nodes of both; the rest of `inside` leads to what they read.
    """

    def __init__(
        self, candidates: Sequence[Candidate], nesting: Nesting, neighbours: Iterable[fx.Node] = ()
    ) -> None:
        self.nesting = nesting
        self.candidates = tuple(candidates)
        taken = {*neighbours, *(n for c in candidates for n in c.extent.elided)}
        for candidate in candidates:
            effects = nesting.effects[candidate.root.graph]
            taken.update(copies(candidate.extent, effects.writes_to))
        writers = self._writers(taken)
        self._overwritten = {s for writer in writers for n in written(writer) for s in storages(n)}
        taken.update(writers)
        self.wanted = taken
        self.equal = {
            node: operand
            for candidate in candidates
            for node, operand in candidate.extent.equal.items()
            if node not in taken
        }
        self._rank = {graph: -i for i, graph in enumerate(nesting.effects)}
        self._inside: dict[fx.Node, None] = {}
        self._read: dict[fx.Node, None] = {}
        self._asked: list[fx.Node] = []
        for candidate in candidates:
            self._include(mask_roots(candidate), floats=True)
            self._check_moments(candidate)
        self._inside.update(dict.fromkeys(taken))
        read = [source for node in taken for source in node.all_input_nodes]
        operands = [operand for c in candidates for operand in c.extent.operands]
        self._include([*read, *operands], floats=False)
        while self._asked:  # no more than a shape: any numbers will do
            self._include([self._asked.pop()], floats=False)
        self._close_vmaps()
        self._take_what_reads_the_sites()
        self.inside = tuple(sorted(self._inside, key=self._position))
        self.inputs = tuple(
            sorted((n for n in self._read if n not in self._inside), key=self._position)
        )
        self._check_aliases()

    def _writers(self, taken: set[fx.Node]) -> tuple[fx.Node, ...]:
        """What in between writes to a value that is read here. Raises CannotRun."""
        found: list[fx.Node] = []
        for graph in {node.graph: None for node in taken}:
            inside = [node for node in taken if node.graph is graph]
            found += self.nesting.effects[graph].writers_among(inside)
        for writer in found:
            if is_opaque_call(writer) or called_name(writer).rstrip("_") in RANDOM:
                raise CannotRun(f"what {called(writer)} writes in between cannot be told")
        return tuple(found)

    def _check_aliases(self) -> None:
        """Inputs get numbers of their own: a write to one must not be one to another."""
        several: dict[object, fx.Node] = {}
        for node in self.inputs:
            for storage in self._overwritten.intersection(storages(node)):
                if several.setdefault(storage, node) is not node:
                    raise CannotRun(f"{called(node)} shares memory that is written to in between")

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
            elif self._is_overwritten_view(node):
                self._inside[node] = None
                todo += node.all_input_nodes
            elif (any_number and not floats) or not self._can_run(node):
                self._read[node] = None
            else:
                self._inside[node] = None
                todo += [self.resolved(source) for source in values_read(node)]
                self._asked += node.all_input_nodes
        if len(self._inside) > MOST_NODES:
            raise CannotRun(f"more than {MOST_NODES} operations lead to its mask")

    def _take_what_reads_the_sites(self) -> None:
        """A mask that asks for the shape of the scores has no place of its own in front of them."""
        for node in sorted(self._inside, key=self._position):
            if not self.wanted.isdisjoint(node.all_input_nodes):
                self.wanted.add(node)

    def _is_overwritten_view(self, node: fx.Node) -> bool:
        """Memory of another value that is written to in between: it has to stay so."""
        if not node.op.startswith("call") or is_barrier(node):
            return False
        shared = self._overwritten.intersection(storages(node))
        return any(shared.intersection(storages(source)) for source in node.all_input_nodes)

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

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """The fake tensors of all that is read and made."""
        fakes = (value(node) for node in (*self.inputs, *self.inside))
        return tuple(fake for fake in fakes if isinstance(fake, torch.Tensor))

    @property
    def led(self) -> tuple[fx.Node, ...]:
        """Values that what is wanted reads, and that are computed from the inputs: masks."""
        read = [source for node in self.wanted for source in node.all_input_nodes]
        for candidate in self.candidates:
            read += candidate.extent.operands
            sources = candidate.call.sources.values() if candidate.call is not None else ()
            read += [node for source in sources for node in (source.node, *source.others)]
        found = set()
        for node in read:
            while node not in self._inside and node in self.equal:
                node = self.equal[node]
            if node in self._inside and isinstance(value(node), torch.Tensor):
                found.add(node)
        return tuple(node for node in self.inside if node in found - self.wanted)

    def leading(self) -> fx.GraphModule:
        """A function of `inputs` that returns `led`."""
        graph, taken = self._opened(self.inputs)
        for i, node in enumerate(node for node in self.inside if node not in self.wanted):
            self._copy(node, graph, taken, f"value_{i}")
        graph.output(tuple(taken[node] for node in self.led))
        return fx.GraphModule(torch.nn.Module(), graph)

    def code(
        self,
        chosen: Sequence[Candidate],
        roots: Sequence[fx.Node],
        overload: str = "default",
        given: Sequence[fx.Node] | None = None,
    ) -> fx.GraphModule:
        """A function of `inputs` that returns the roots as a tuple, with the new code of the chosen
        sites. Names do not depend on the place.

        given: the rest of what it gets, in place of what leads to it.
        """
        graph, taken = self._opened((*self.inputs, *(given or ())))
        waiting = rewrite.in_turn(chosen, self._position)
        gone = self._gone(chosen, roots)
        nodes = self.inside if given is None else [n for n in self.inside if n in self.wanted]
        kept = [node for node in nodes if node not in gone]
        for i, node in enumerate(kept):
            while waiting and self._position(waiting[0].place) <= self._position(node):
                self._put_in(waiting.pop(0), graph, taken, overload)
            self._copy(node, graph, taken, f"value_{i}")
        for candidate in waiting:
            self._put_in(candidate, graph, taken, overload)
        graph.output(tuple(self.found(taken, root) for root in roots))
        graph.lint()
        return fx.GraphModule(torch.nn.Module(), graph)

    def _opened(self, nodes: Iterable[fx.Node]) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        graph = fx.Graph()
        taken = {node: graph.placeholder(f"input_{i}") for i, node in enumerate(nodes)}
        for node, made in list(taken.items()):
            if self._overwritten.intersection(storages(node)):
                taken[node] = graph.call_method("clone", (made,))
        return graph, taken

    def _copy(
        self, node: fx.Node, graph: fx.Graph, taken: dict[fx.Node, fx.Node], name: str
    ) -> None:
        def copied(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                return self.found(taken, argument)
            return constant(argument)

        args, kwargs = (fx.node.map_aggregate(a, copied) for a in (node.args, node.kwargs))
        taken[node] = graph.create_node(node.op, node.target, args, kwargs, name)  # type: ignore[arg-type]

    def _gone(self, chosen: Sequence[Candidate], roots: Sequence[fx.Node]) -> set[fx.Node]:
        """What the new code has no use for: what a site elides, but for casts and views that
        something else reads as well.
        """
        made = {root for candidate in chosen for root in candidate.extent.roots}
        gone = {node for candidate in chosen for node in candidate.extent.elided} - made
        wanted = set(roots)
        for node in reversed(self.inside):
            if node in gone and node in wanted:
                gone.remove(node)
            if node not in gone and node not in made:
                wanted.update(node.all_input_nodes)
        return gone | made

    def _put_in(
        self, candidate: Candidate, graph: fx.Graph, taken: dict[fx.Node, fx.Node], overload: str
    ) -> None:
        """The new code of a site, which gives its roots."""
        tracer = rewrite.TracksNodes(graph)

        def leaf(node: fx.Node) -> Any:
            found = self.found(taken, node)
            return fx.Proxy(found, tracer) if isinstance(found, fx.Node) else found

        made = rewrite.replacement(candidate, tracer, leaf, lambda s: s.made(leaf), overload)
        for node in tracer.made:
            node.args = tuple(fx.node.map_aggregate(argument, constant) for argument in node.args)
        for root, result in zip(candidate.extent.roots, made, strict=True):
            taken[root] = result.node


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
