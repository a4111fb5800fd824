"""Variations of a captured graph: other spellings of it, and one-edit mutants.

Every variation is a program of its own: its fake values are computed anew, and one that eager
refuses is no program. All choices come from a seeded generator.
Longer than 300 lines because the edits are one list, each a few lines.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from tests.core_graph import Captured, outcome
from tests.core_respell import IDENTITIES, respelled
from tile_backend.lowering import undo
from tile_backend.lowering.legality import fake_mode_of
from tile_backend.lowering.node import value

Edit = Callable[[fx.Graph, fx.Node, random.Random], str]
CALLS = ("call_function", "call_method")
REFUSED = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, AssertionError)
"""How eager refuses operands; torch's own decompositions assert."""


def refresh(graph: fx.Graph) -> bool:
    """Compute every fake value again; False where an op refuses its operands."""
    fakes = [value(node) for node in graph.find_nodes(op="placeholder")]
    with fake_mode_of(fakes), torch.no_grad(), quiet():
        for node in graph.nodes:
            if node.op not in CALLS:
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
            try:
                if node.op == "call_method":
                    made = getattr(args[0], str(node.target))(*args[1:], **kwargs)
                else:
                    made = node.target(*args, **kwargs)
            except REFUSED:
                return False
            node.meta["example_value"] = made
    return True


def runs(program: Captured) -> bool:
    """Whether eager takes it: torch 2.11's fake tensors let a product of two dtypes pass."""
    try:
        outcome(program.module, program.inputs)
    except REFUSED:
        return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Fake tensors log what ops refuse."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op in CALLS]


def put_after(graph: fx.Graph, node: fx.Node, change: Callable[..., Any]) -> None:
    """Every use of the value reads change(value) instead."""
    tracer = fx.proxy.GraphAppendingTracer(graph)
    before = set(graph.nodes)
    first = calls(graph)[0] if node.op == "placeholder" else node.next
    with graph.inserting_before(first):
        made = change(fx.Proxy(node, tracer)).node
    new = set(graph.nodes) - before
    for one in new:
        one.meta |= {k: v for k, v in node.meta.items() if k == "nn_module_stack"}
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user not in new)


def varied(captured: Captured, edits: list[Edit], count: int, choice: random.Random) -> Any:
    """(what was done, the program) after `count` edits in a row, or None where it is no program."""
    graph = undo.copied(captured.module.graph)
    done: list[str] = []
    for _ in range(count):
        nodes = [n for n in graph.nodes if n.op in (*CALLS, "placeholder")]
        node = choice.choice(nodes)
        if not calls(graph):
            return None
        done.append(choice.choice(edits)(graph, node, choice))
        if not refresh(graph):
            return None
    text = "; ".join(word for word in done if word)
    if not text:
        return None
    for node in reversed(list(graph.nodes)):
        if node.op in CALLS and not node.users and node.target not in WRITES:
            graph.erase_node(node)
    program = Captured(fx.GraphModule(captured.module, graph), captured.inputs)
    return (text, program) if runs(program) else None


def variations(
    captured: Captured, edits: list[Edit], number: int, choice: random.Random, length: int = 1
) -> Iterator[tuple[str, Captured]]:
    """Up to `number` different programs of 1 to `length` edits."""
    seen: set[str] = set()
    for _ in range(6 * number):
        if len(seen) == number:
            return
        made = varied(captured, edits, choice.randint(1, length), choice)
        if made is not None and made[0] not in seen:
            seen.add(made[0])
            yield made


# --- edits that keep every value -----------------------------------------------------------------


def another_way(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    return respelled(graph, node, choice)


def through_an_identity(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """One operand through a function that changes nothing."""
    known = value(node)
    if not isinstance(known, torch.Tensor) or known.dim() < 2 or not known.is_floating_point():
        return ""
    (output,) = graph.find_nodes(op="output")
    if output in node.users:  # another value of the program would be its result
        return ""
    index = choice.randrange(len(IDENTITIES))
    put_after(graph, node, IDENTITIES[index])
    return f"{node.name} through identity {index}"


KEEPING = [another_way, another_way, another_way, through_an_identity]


# --- edits that write in place -------------------------------------------------------------------

WRITES = ("mul_", "add_", "copy_", "zero_", "neg_", operator.setitem)


def written(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """Before the node, something is written to a value of the program, or through a view of it."""
    earlier = []
    for candidate in graph.nodes:
        if candidate is node:
            break
        known = value(candidate)
        if isinstance(known, torch.Tensor) and known.is_floating_point() and known.dim() > 1:
            earlier.append(candidate)
    if not earlier:
        return ""
    target = choice.choice(earlier)
    view, write = choice.randrange(len(VIEWS)), choice.randrange(5)
    tracer = fx.proxy.GraphAppendingTracer(graph)
    with graph.inserting_before(node):
        place = VIEWS[view](fx.Proxy(target, tracer))
        if write == 0:
            place.mul_(1.5)
        elif write == 1:
            place.add_(0.5)
        elif write == 2:
            place.neg_()
        elif write == 3:
            tracer.create_proxy("call_function", operator.setitem, (place, (0,), 0.25), {})
        else:
            place.copy_(fx.Proxy(choice.choice(earlier), tracer))
    return f"{target.name} written ({view}, {write}) before {node.name}"


VIEWS: tuple[Callable[..., Any], ...] = (
    lambda x: x,
    lambda x: x[..., :1],
    lambda x: x.transpose(-1, -2),
    lambda x: x.reshape(-1),
    lambda x: x.detach(),
    lambda x: x[0],
)
WRITING: list[Edit] = [written]
