"""Which operands a call writes to.

The schemas of every overload that can be meant are asked: of an op, of a packet of ops
(`torch.ops.namespace.name`), of a builtin function or method of torch by its name. What has no
schema, a Python function, is run once on meta tensors, and what its operators write to and whose
version it moves is looked at. What can be neither asked nor run writes to all its operands.
"""

from __future__ import annotations

import operator
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from tile_backend.lowering import meta
from tile_backend.lowering.meta import without_fakes
from tile_backend.lowering.meta_results import kind
from tile_backend.lowering.node import called_name, value

STATISTICS = frozenset(("running_mean", "running_var"))
"""Arguments that batch and instance norms write to in training, though older schemas of theirs do
not say so."""
TRAINING = ("training", "train", "use_input_stats")
"""The names of the flag that tells them so."""


def in_place_operators() -> Iterator[Callable[..., Any]]:
    """Those of module operator that have an operator without `i` beside them, and item writes."""
    yield from (operator.setitem, operator.delitem)
    for name in dir(operator):
        plain = name[1:]
        beside = hasattr(operator, plain) or hasattr(operator, f"{plain}_")
        if name.startswith("i") and beside and hasattr(operator, f"__{name}__"):
            yield getattr(operator, name)


IN_PLACE_OPERATORS = frozenset(in_place_operators())
IN_PLACE_METHODS = frozenset(f"__{function.__name__}__" for function in IN_PLACE_OPERATORS)
IN_PYTHON = {"self": ("self", "input", "x", "a", "x1")}
"""What Python calls an argument of a schema by (torch/csrc/utils/python_arg_parser.cpp)."""
PYTHON_MODULES = ("torch.nn.functional", "torch.functional", "torch._tensor")
"""Where torch defines functions in Python."""
PURE_MODULES = ("torch._C._functorch", "torch._functorch.predispatch")
"""Their functions wrap and unwrap the tensors of torch.func's transforms."""


def by_call(node: fx.Node) -> list[fx.Node]:
    """The operands that a function or method call writes to; not for higher-order ops."""
    operands = [n for n in node.all_input_nodes if [*tensors(value(n))]]
    if not operands:
        return []
    if node.target in IN_PLACE_OPERATORS or node.target in IN_PLACE_METHODS:
        return [n for n in flat(node.args[:1]) if isinstance(n, fx.Node)]
    places = written_by(node.target)
    if places is None:
        return observed(node)
    found = arguments_at(places, node.args, node.kwargs)
    # One tuple in Python, where a schema has a name for each (max, sort, aminmax).
    found += flat(node.kwargs.get("out"))
    return list(dict.fromkeys(argument for argument in found if isinstance(argument, fx.Node)))


class Place(NamedTuple):
    """An argument of an op. position: None where it is given by name only."""

    position: int | None
    name: str

    def given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a call gives for it; None where it gives nothing."""
        if self.position is not None and self.position < len(args):
            return args[self.position]
        names = IN_PYTHON.get(self.name, (self.name,))
        return next((kwargs[name] for name in names if name in kwargs), None)


class Written(NamedTuple):
    """A place that an op writes to. training: the flag that has to be on, where there is one."""

    place: Place
    training: Place | None = None


def written_by(target: Any) -> tuple[Written, ...] | None:
    """What all overloads that a target can mean write to; None where nothing has a schema."""
    if isinstance(target, torch._ops.OpOverload):
        return written_in((target,))
    if isinstance(target, torch._ops.OpOverloadPacket):
        return written_in(tuple(getattr(target, name) for name in target.overloads()))
    if isinstance(target, str):
        return written_by_aten(target)
    if isinstance(target, types.BuiltinFunctionType):
        if target.__module__ in ("_operator", "builtins", "math"):
            return ()  # the writing ones are in IN_PLACE_OPERATORS
        return written_by_aten(target.__name__)
    return None


@cache
def written_by_aten(name: str) -> tuple[Written, ...] | None:
    packet = getattr(torch.ops.aten, name, None)
    return written_by(packet) if isinstance(packet, torch._ops.OpOverloadPacket) else None


@cache
def written_in(overloads: tuple[Any, ...]) -> tuple[Written, ...]:
    """Each place once: reading a schema takes long beside looking at a call."""
    found: dict[Written, None] = {}
    for overload in overloads:
        arguments = overload._schema.arguments
        places = [Place(None if a.kwarg_only else i, a.name) for i, a in enumerate(arguments)]
        flag = next((place for place in places if place.name in TRAINING), None)
        for argument, place in zip(arguments, places, strict=True):
            if argument.alias_info is not None and argument.alias_info.is_write:
                found[Written(place)] = None
            elif argument.name in STATISTICS:
                found[Written(place, flag)] = None
    return tuple(found)


def arguments_at(
    places: tuple[Written, ...], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """The arguments of a call that are written to, lists element by element."""
    return [
        each
        for place, training in places
        if training is None or training.given(args, kwargs) is not False
        for each in flat(place.given(args, kwargs))
    ]


# --- functions without a schema -------------------------------------------------------------------

_observed: weakref.WeakKeyDictionary[Any, dict[Any, tuple[int, ...]]] = weakref.WeakKeyDictionary()
"""By function and kinds of its arguments: which of its operands are written to, by number."""


def observed(node: fx.Node) -> list[fx.Node]:
    """The operands that the function writes to on meta tensors of the same kinds."""
    if getattr(node.target, "__module__", None) in PURE_MODULES:
        return []
    operands = node.all_input_nodes
    numbers = {operand: number for number, operand in enumerate(operands)}
    of = form if is_torch(node) else kind

    def shown(operand: fx.Node) -> Any:
        return numbers[operand], fx.node.map_aggregate(meta.node(operand), of)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), shown)
    key = kind((args, tuple(kwargs.items())))
    try:
        known = _observed.setdefault(function_of(node), {})
        if key not in known:
            known[key] = run(node)
        places = known[key]
    except TypeError:  # an argument that cannot be a key
        places = run(node)
    return [operands[place] for place in places]


def form(argument: Any) -> Any:
    """What a function of torch's own could decide by whether it writes: not a size."""
    tensor = isinstance(argument, torch.Tensor)
    return (argument.dtype, argument.dim()) if tensor else kind(argument)


def is_torch(node: fx.Node) -> bool:
    """Whether torch itself defines the function or method."""
    if isinstance(node.target, str):
        return hasattr(torch.Tensor, node.target)
    return str(getattr(node.target, "__module__", None)).startswith(PYTHON_MODULES)


def function_of(node: fx.Node) -> Any:
    """The function behind a call; of a method the one in torch.Tensor."""
    if isinstance(node.target, str):
        return getattr(torch.Tensor, node.target, torch.Tensor)
    return node.target


def run(node: fx.Node) -> tuple[int, ...]:
    """The numbers of the operands that are written to. Where it does not run, all of them.

    A function of torch's own that does not run on meta tensors (`unique`) goes by its name and
    flags, which say when it writes.
    """
    operands = node.all_input_nodes
    with without_fakes(), torch.no_grad(), Writes() as seen:
        values = {operand: meta.node(operand) for operand in operands}
        before = {n: [t._version for t in tensors(v)] for n, v in values.items()}
        try:
            meta.call(node, values)
        except Exception:  # noqa: BLE001 - a user's function may raise anything
            says = called_name(node).endswith("_") or "out" in node.kwargs
            says = says or node.kwargs.get("inplace") is True
            return () if is_torch(node) and not says else tuple(range(len(operands)))
    return tuple(
        number
        for number, operand in enumerate(operands)
        if before[operand] != [t._version for t in tensors(values[operand])]
        or any(address(t) in seen.storages for t in tensors(values[operand]))
    )


class Writes(TorchDispatchMode):
    """Notes the storages that operators write to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self, overload: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for written in arguments_at(written_in((overload,)), args, kwargs or {}):
            self.storages.update(address(t) for t in tensors(written))
        return overload(*args, **(kwargs or {}))


def address(tensor: torch.Tensor) -> int:
    """Of a tensor's storage, which lives as long as the tensor does."""
    return int(tensor.untyped_storage()._cdata)


def tensors(given: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value: itself, or those in a list."""
    return (each for each in flat(given) if isinstance(each, torch.Tensor))


def flat(argument: Any) -> list[Any]:
    """The elements of nested lists and tuples; None is no element."""
    if isinstance(argument, (tuple, list)):
        return [inner for a in argument for inner in flat(a)]
    return [] if argument is None else [argument]
