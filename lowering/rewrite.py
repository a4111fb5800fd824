"""Putting ops into a graph: all planned calls, but for those that fail.

Every new node carries its fake value, the stack trace and the module path of what it replaces, and
in `from_node` that node itself, as torch's own passes do. Only nodes that the rewrite itself made
useless are erased (a general dead-code pass would delete in-place ops whose result nobody reads).
`apply` works on a graph that the caller can throw away or restore.

Longer than 300 lines because putting one op in and taking it back are one list of steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.traceback import NodeSource, NodeSourceAction

from tile_backend.lowering import checked, failure, steps
from tile_backend.lowering.check_request import Check
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.legality import fake_mode_of
from tile_backend.lowering.mask.source import Source
from tile_backend.lowering.match import Match
from tile_backend.lowering.node import line, value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.realise import operands, results
from tile_backend.lowering.reason import Reason
from tile_backend.lowering.signature import declared
from tile_backend.lowering.strides import layout, way_to
from tile_backend.lowering.undo import Journal

Inside = Callable[[fx.Graph, Candidate, Journal], Candidate]
KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "fwd_nn_module_stack", "seq_nr")


class TracksNodes(fx.proxy.GraphAppendingTracer):
    """Appends to a graph and remembers what it appended."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__(graph)
        self.made: list[fx.Node] = []

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        self.made.append(node)
        return node


def apply(
    graph: fx.Graph,
    candidates: Sequence[Candidate],
    overload: str = "default",
    check: Check | None = None,
    inside: Inside = lambda graph, candidate, journal: candidate,
) -> list[tuple[Candidate, Reason]]:
    """Splice every candidate's op into the graph, in program order; erase what became useless.

    overload: of the ops, see custom_op. check: what is asked of their results at run time.
    inside: hands in what a candidate reads outside. Returns the candidates of which the splicing
    failed, and why; their nodes are as they were.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    replaced: dict[fx.Node, fx.Node] = {}
    done: list[Candidate] = []
    failed: list[tuple[Candidate, Reason]] = []
    placed = set[fx.Node]()
    for candidate in in_turn(candidates, order.__getitem__):
        journal = Journal()
        given = graph, candidate, replaced, placed, overload, check, journal, inside, order
        reason = failure.tried("putting it in", candidate.root, put_in, *given)
        if reason is None:
            done.append(candidate)
        else:
            journal.undo()
            failed.append((candidate, reason))
    drop_outputs(graph, {node for candidate in done for node in candidate.dropped})
    for candidate in done:
        failure.instead(None, "clearing up after it", candidate.place, erase, graph, candidate)
    if candidates:
        graph.lint()
    return failed


def in_turn(candidates: Iterable[Candidate], order: Callable[[fx.Node], Any]) -> list[Candidate]:
    """By place; at one place what reads a result of another comes behind it.

    order: of the nodes of the graph.
    """
    found: list[Candidate] = []
    waiting = sorted(candidates, key=lambda c: order(c.place))
    while waiting:
        here = [c for c in waiting if c.place is waiting[0].place]
        made = {root: c for c in here for root in c.extent.roots}
        free = [c for c in here if all(made.get(n, c) is c for n in c.extent.operands)]
        found.append((free or here)[0])
        waiting.remove(found[-1])
    return found


def put_in(
    graph: fx.Graph,
    candidate: Candidate,
    replaced: dict[fx.Node, fx.Node],
    placed: set[fx.Node],
    overload: str,
    check: Check | None,
    journal: Journal,
    inside: Inside,
    order: Mapping[fx.Node, int],
) -> None:
    given = inside(graph, candidate, journal)
    splice(graph, given, replaced, placed, overload, check, journal, order)


def drop_outputs(graph: fx.Graph, dropped: set[fx.Node]) -> None:
    """The graph returns what is left; see Candidate.dropped_at."""
    output = graph.output_node()
    if dropped:
        output.args = (tuple(n for n in output.args[0] if n not in dropped),)  # type: ignore[union-attr]


def splice(
    graph: fx.Graph,
    candidate: Candidate,
    replaced: dict[fx.Node, fx.Node],
    placed: set[fx.Node],
    overload: str,
    check: Check | None,
    journal: Journal,
    order: Mapping[fx.Node, int],
) -> None:
    """Insert one op. `replaced` maps the results that earlier ops took over, and is extended.

    placed: the nodes of earlier ops, extended: they stand in front of this one, so that they go on
    reading the original of what it takes over. journal: takes it back. order: of the nodes that
    are not ours.
    """
    tracer = TracksNodes(graph)
    journal.add(lambda: erase_made(graph, tracer.made))

    def there(node: fx.Node) -> fx.Proxy:
        return fx.Proxy(replaced.get(node, node), tracer)

    def leaf(node: fx.Node) -> Any:
        read = there(node)
        return torch.ops.tilegym.copy(read) if node in candidate.copied else read

    def taken(source: Source) -> Any:
        """A copy of a tensor that is written to later, made where the mask reads it."""
        if source.before is None:
            return source.made(leaf)
        with graph.inserting_before(source.before):
            return source.made(lambda node: there(node).clone())

    with graph.inserting_before(candidate.place):
        laid_out = replacement(candidate, tracer, leaf, taken, overload, check)
    annotate(tracer.made, candidate)
    ours, first = placed.union(tracer.made), order[candidate.place]

    def takes_new(user: fx.Node) -> bool:
        """Who needs no element of a result may stand before it, and keeps the old one."""
        return user not in ours and order.get(user, first) >= first

    for root, proxy in zip(candidate.extent.roots, laid_out, strict=True):
        users = [user for user in root.users if takes_new(user)]
        journal.add(functools.partial(give_back, root, proxy.node, users, replaced))
        root.replace_all_uses_with(proxy.node, delete_user_cb=takes_new, propagate_meta=False)
        replaced[root] = proxy.node
    placed.update(tracer.made)


def give_back(
    root: fx.Node, new: fx.Node, users: Sequence[fx.Node], replaced: dict[fx.Node, fx.Node]
) -> None:
    """The users of a result read the original again."""
    for user in users:
        user.replace_input_with(new, root)
    replaced.pop(root, None)


def erase_made(graph: fx.Graph, made: Sequence[fx.Node]) -> None:
    for node in reversed(made):
        graph.erase_node(node)


def replacement(
    candidate: Candidate,
    tracer: TracksNodes,
    leaf: Callable[[fx.Node], Any],
    taken: Callable[[Source], Any],
    overload: str,
    check: Check | None = None,
) -> list[Any]:
    """The new code: a proxy for each root of the candidate.

    leaf: the value of a node of the old graph. taken: that of a tensor which the mask reads.
    """
    call = candidate.call
    assert call is not None
    bound, arguments = dict(bound_operands(candidate, leaf)), call.arguments
    if not candidate.plain:
        bound |= {name: taken(source) for name, source in call.sources.items()}
    else:
        arguments = call.masked
    args = [
        None if arguments[name] is None else bound.get(name, arguments[name])
        for name in declared(call.op).names
    ]
    result = inserted(candidate, args, tracer, overload, check)
    made = [result] if len(call.outputs) == 1 else [result[i] for i in range(len(call.outputs))]
    found = made if candidate.merged else results(candidate.match, made)
    return [
        result_like(proxy, value(root), fake)
        for proxy, root, fake in zip(found, candidate.extent.roots, laid(candidate), strict=True)
    ]


def inserted(
    candidate: Candidate,
    args: list[Any],
    tracer: TracksNodes,
    overload: str,
    check: Check | None,
) -> Any:
    """The call of the op or of its steps, or the plain PyTorch that stands for it."""
    call = candidate.call
    assert call is not None
    given = dict(zip(declared(call.op).names, args, strict=True))
    if candidate.plain:
        assert call.respelled is not None
        assert call.respelled.function is not None
        return call.respelled.function(**given)

    def run(op: Op, values: list[Any]) -> Any:
        target = getattr(getattr(torch.ops.tilegym, op.name), overload)
        return tracer.create_proxy("call_function", target, tuple(values), {})

    if check is not None:
        place = f"{candidate.module} {candidate.fusion} {line(candidate.root).source}".strip()
        check = dataclasses.replace(check, site=place, runs=overload)
    if not call.steps:
        if check is None:
            return run(call.op, args)
        target, given_too = checked.overload(call.op), check.to_text()
        return tracer.create_proxy("call_function", target, (*args, given_too), {})
    result = steps.replayed(call, given, run)
    if check is None:
        return result
    several = len(call.outputs) > 1
    made = [result[i] for i in range(len(call.outputs))] if several else [result]
    request = checked.asked(call.op, given, made, check)
    found: Any = tracer.create_proxy("call_function", torch.ops.tilegym.check.default, request, {})
    return found if several else found[0]


def rehearse(candidate: Candidate, overload: str) -> None:
    """Make the new code aside, with its fake values: nothing is changed.

    Raises NewGuard where torch or an op would have to know more of the sizes than the program does.
    """
    graph = fx.Graph()
    tracer = TracksNodes(graph)
    taken: dict[fx.Node, fx.Node] = {}

    def leaf(node: fx.Node) -> fx.Proxy:
        if node not in taken:
            taken[node] = graph.placeholder(node.name)
            taken[node].meta["example_value"] = value(node)
        return fx.Proxy(taken[node], tracer)

    replacement(candidate, tracer, leaf, lambda source: source.made(leaf), overload)
    annotate(tracer.made, candidate)


def bound_operands(candidate: Candidate, leaf: Any) -> Mapping[str, Any]:
    """The op's tensor arguments by name; a merged call takes the separate one of each match."""
    found = dict(operands(candidate.match, leaf))
    rule = candidate.match.fusion.merge
    if candidate.merged and rule is not None:
        second: Match = candidate.merged[0]
        found[rule.first] = found.pop(rule.separate)
        found[rule.second] = operands(second, leaf)[rule.separate]
    return found


def result_like(proxy: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    """The result in the strides that the model has here. new: a fake tensor that lies like it."""
    way = way_to(layout(old), layout(new))
    if way is None:
        raise ValueError(f"nothing has the strides {tuple(old.stride())} of the model's result")
    return way(proxy)


def laid(candidate: Candidate) -> Sequence[torch.Tensor]:
    """Fake tensors that lie like the new results do, before anything is done about it."""
    call = candidate.call
    assert call is not None
    if candidate.plain:
        assert call.respelled is not None
        assert call.respelled.function is not None
        with fake_mode_of([value(candidate.root)]), torch.no_grad():
            return results(candidate.match, (call.respelled.function(**call.masked),))
    if call.steps:
        return results(candidate.match, call.steps[-1].outputs)
    return call.results


def annotate(made: list[fx.Node], candidate: Candidate) -> None:
    """Fake values by running the new nodes on the graph's fakes, and where they come from.

    They want a gradient where the old ones did: it is from them that torch knows which results of a
    body (of invoke_subgraph) have one. Autograd does not run: a user's hooks would see fakes.
    """
    root = candidate.root
    differentiable = any(value(node).requires_grad for node in candidate.extent.roots)
    with fake_mode_of([value(root)]), torch.no_grad():
        for node in made:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
            if node.op == "call_method":
                result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                assert callable(node.target)
                result = node.target(*args, **kwargs)
            read = any(getattr(value(n), "requires_grad", False) for n in node.all_input_nodes)
            node.meta["example_value"] = with_grad(result) if differentiable and read else result
            for key in KEPT_META:
                if key in root.meta:
                    node.meta[key] = root.meta[key]
            node.meta["from_node"] = [NodeSource(root, "tilegym", NodeSourceAction.REPLACE)]


def with_grad(result: Any) -> Any:
    """The same values as tensors that want a gradient, where they can have one."""
    if isinstance(result, (tuple, list)):
        return type(result)(map(with_grad, result))
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return result
    return result.detach().requires_grad_()


def erase(graph: fx.Graph, candidate: Candidate) -> None:
    """Elided nodes without users, last first; one that something else still reads stays."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in sorted(candidate.extent.elided, key=lambda n: order.get(n, -1), reverse=True):
        if node in order and not node.users:
            graph.erase_node(node)
