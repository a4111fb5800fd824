"""Which calls need a value: none that nobody needs, and none that asks for its shape alone."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor.decomposition import select_decomp_table as decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.core_graph import capture
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.node import called_name
from tile_backend.lowering.uses import NOT_READ, Uses, asks_only, not_read, values_read

Tensor = torch.Tensor


# --- the table of operands that are not read ------------------------------------------------------

X = torch.arange(1.0, 7.0).view(2, 3)
MAKERS = frozenset(name for name, (place, _) in NOT_READ.items() if place == 0)
"""ATen has most of them as operators of their own, which say no more of what they read."""


def given() -> Iterator[tuple[Any, ...]]:
    """Arguments behind the tensor itself, one row of which most methods take."""

    def like(dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(2, 3, dtype=dtype, device="meta")

    yield from ((), (0,), (2.0,), (0, 1), ((2, 3),), ((2, 3), 2.0), ((2, 3), (3, 1)), ([1.0, 2.0],))
    yield from ((like(),), (like(torch.int64),), (like(torch.bool), 2.0), (like(), like()))
    yield 0, like(torch.int64), like()


class Read(TorchDispatchMode):
    """Notes the tensors that operators get, but for those that make another tensor like one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []

    def __torch_dispatch__(
        self, overload: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if str(overload).split(".")[1] not in MAKERS:
            self.seen += tensors_in((args, kwargs))
        return overload(*args, **(kwargs or {}))


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def unread(function: Callable[..., Any], arguments: tuple[Any, ...]) -> set[int]:
    """The places of tensors that a call gives to no operator and does not return."""
    with Read() as read:
        made = tensors_in(function(*arguments))
    if not made:
        raise TypeError("no tensor is made of these")
    used = {id(tensor) for tensor in (*read.seen, *made)}
    places = [i for i, given in enumerate(arguments) if isinstance(given, torch.Tensor)]
    return {place for place in places if id(arguments[place]) not in used}


def derived() -> dict[str, set[int]]:
    """By method of a tensor, the places that no arguments which it takes make it read."""
    found: dict[str, set[int]] = {}
    for name in dir(torch.Tensor):
        if name.startswith("_") or name.endswith("_") or not callable(getattr(Tensor, name)):
            continue
        places: dict[int, list[bool]] = {}
        for dtype, arguments in itertools.product((torch.float32, torch.complex64), given()):
            row = (torch.empty(2, 3, dtype=dtype, device="meta"), *arguments)
            try:
                missed = unread(getattr(torch.Tensor, name), row)
            except Exception:  # noqa: BLE001 - other arguments than the method takes
                continue
            for place in (i for i, argument in enumerate(row) if isinstance(argument, Tensor)):
                places.setdefault(place, []).append(place in missed)
        found[name] = {place for place, rows in places.items() if all(rows)}
    return {name: places for name, places in found.items() if places}


def test_the_operands_that_are_not_read_are_those_that_no_operator_gets() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = derived()
    stated = {name: {place} for name, (place, _) in NOT_READ.items() if hasattr(Tensor, name)}
    assert found == stated


@pytest.mark.parametrize("name", [n for n in NOT_READ if not hasattr(Tensor, n)])
def test_functions_that_make_a_tensor_like_another_read_nothing_of_it(name: str) -> None:
    """Inductor's own decompositions leave nothing that reads it."""
    extra = {"full_like": (1.0,), "randint_like": (5,), "fill": (1.0,)}.get(name, ())
    traced = make_fx(
        lambda x: getattr(torch, name)(x, *extra),
        decomposition_table=decompositions(),
        tracing_mode="fake",
    )(X)
    traced.graph.eliminate_dead_code()
    (placeholder,) = traced.graph.find_nodes(op="placeholder")
    assert NOT_READ[name][0] == 0
    assert not placeholder.users


# --- single calls ---------------------------------------------------------------------------------


def graph_of(function: Callable[..., Any], *inputs: Tensor) -> fx.Graph:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return capture(function, dict(zip(names, inputs, strict=True))).module.graph


def found_in(graph: fx.Graph, name: str) -> fx.Node:
    (node,) = [n for n in graph.nodes if called_name(n) == name]
    return node


def keywords(x: Tensor, y: Tensor) -> Any:
    return torch.zeros_like(input=x), x.expand_as(other=y), x.to(tensor=y), torch.full_like(x, 2)


def test_keywords_say_the_same_as_places() -> None:
    graph = graph_of(keywords, X, X + 1)
    x, _ = graph.find_nodes(op="placeholder")
    assert values_read(found_in(graph, "zeros_like")) == ()
    assert values_read(found_in(graph, "full_like")) == ()
    assert values_read(found_in(graph, "expand_as")) == (x,)
    assert values_read(found_in(graph, "to")) == (x,)


def both(x: Tensor) -> Any:
    return x.expand_as(x), x.mT, x.new_zeros(x.shape)


def test_an_operand_in_both_places_is_read() -> None:
    graph = graph_of(both, X)
    (x,) = graph.find_nodes(op="placeholder")
    assert values_read(found_in(graph, "expand_as")) == (x,)
    assert values_read(found_in(graph, "getattr")) == (x,), "a view, by an attribute"
    assert not_read(found_in(graph, "new_zeros")) is not None


def sizes(x: Tensor) -> Any:
    torch._check(x.size(0) > 1)
    return x + x.size(0), x.sum().item()


def test_sizes_are_no_elements_and_items_are() -> None:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        graph = graph_of(sizes, X)
    assert not asks_only(found_in(graph, "item"))
    (total,) = [n for n in graph.nodes if called_name(n) == "sum"]
    assert total in Uses(Effects(graph)).needed


# --- what is needed -------------------------------------------------------------------------------


def dead_chain(x: Tensor) -> Any:
    square = x * x
    scaled = square.sum(-1) * 2
    scaled.sqrt()
    return x + 1


def dead_by_shape(x: Tensor) -> Any:
    square = x * x
    big = square.exp()
    return torch.zeros_like(big) + x


def alive_by_write(x: Tensor) -> Any:
    square = x * x
    x.add_(square)
    return x.shape[0] * x


def alive_by_assertion(x: Tensor) -> Any:
    square = x * x
    torch._assert_async(square.sum() >= 0)
    return x + 1


def alive_by_randomness(x: Tensor) -> Any:
    square = x * x
    torch.nn.functional.dropout(square, 0.5)
    return x + 1


@torch.library.custom_op("test_uses::look", mutates_args=())
def look(x: Tensor) -> Tensor:
    """For all we know it prints."""
    return x.clone()


@look.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def alive_by_a_stranger(x: Tensor) -> Any:
    square = x * x
    look(square)
    return x + 1


@torch.library.custom_op("test_uses::expand_as", mutates_args=())
def expand_as(x: Tensor, like: Tensor) -> Tensor:
    """No op of torch's: it reads both."""
    return x + like


@expand_as.register_fake
def _(x: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.compiler.allow_in_graph
def numel(x: Tensor) -> Tensor:
    """Not torch's either."""
    return x.sum()


def alive_by_an_op_of_a_known_name(x: Tensor) -> Any:
    square = x * x
    return torch.ops.test_uses.expand_as(x, square)


def alive_by_an_overload_of_a_known_name(x: Tensor) -> Any:
    square = x * x
    return torch.ops.test_uses.expand_as.default(x, square)


def alive_by_a_function_of_a_known_name(x: Tensor) -> Any:
    square = x * x
    return numel(square)


def alive_in_a_body(x: Tensor) -> Any:
    square = x * x
    torch.utils.checkpoint.checkpoint(lambda y: y * 2, square, use_reentrant=False)
    return x + 1


PROGRAMS = (
    *((dead_chain, False), (dead_by_shape, False), (alive_by_write, True)),
    *((alive_by_assertion, True), (alive_by_randomness, True), (alive_by_a_stranger, True)),
    *((alive_in_a_body, True), (alive_by_an_op_of_a_known_name, True)),
    *((alive_by_an_overload_of_a_known_name, True), (alive_by_a_function_of_a_known_name, True)),
)


@pytest.mark.parametrize(("program", "needed"), PROGRAMS, ids=lambda p: getattr(p, "__name__", ""))
def test_who_is_needed(program: Callable[..., Any], needed: bool) -> None:
    graph = graph_of(program, X)
    square = next(n for n in graph.nodes if called_name(n) == "mul")
    uses = Uses(Effects(graph))
    assert (square in uses.needed) is needed
    assert bool(uses.of(square)) is needed


def test_every_call_of_a_needed_value_is_a_use() -> None:
    def program(x: Tensor) -> Any:
        y = x.exp()
        return y + 1, y.view_as(x), x.view_as(y), [y]

    graph = graph_of(program, X)
    exp, uses = found_in(graph, "exp"), Uses(Effects(graph))
    readers = [called_name(n) or n.op for n in uses.of(exp)]
    assert readers == ["add", "view_as", "output"]
    assert len(exp.users) == 4, "two calls of view_as, one of which reads x"
    assert set(itertools.chain.from_iterable(map(values_read, graph.nodes))) <= uses.needed
