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
from typing import Any

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
PYTHON_MODULES = ("torch.nn.functional", "torch.functional", "torch._tensor")
"""Where torch defines functions in Python."""
PURE_MODULES = ("torch._C._functorch",)
"""Their functions wrap and unwrap the tensors of torch.func's transforms."""


def by_call(node: fx.Node) -> list[fx.Node]:
    """The operands that a function or method call writes to; not for higher-order ops."""
    operands = [n for n in node.all_input_nodes if [*tensors(value(n))]]
    if not operands:
        return []
    if node.target in IN_PLACE_OPERATORS or node.target in IN_PLACE_METHODS:
        return [n for n in flat(node.args[:1]) if isinstance(n, fx.Node)]
    schemas = schemas_of(node.target)
    if schemas is None:
        return observed(node)
    found = dict.fromkeys(
        argument
        for schema in schemas
        for argument in arguments_written(schema, node.args, node.kwargs)
        if isinstance(argument, fx.Node)
    )
    return list(found)


def schemas_of(target: Any) -> tuple[Any, ...] | None:
    """Of all overloads that a target can mean; None where nothing has one."""
    if isinstance(target, torch._ops.OpOverload):
        return (target._schema,)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return schemas_in(target)
    if isinstance(target, str):
        return aten_schemas(target)
    if isinstance(target, types.BuiltinFunctionType):
        if target.__module__ in ("_operator", "builtins", "math"):
            return ()  # the writing ones are in IN_PLACE_OPERATORS
        return aten_schemas(target.__name__)
    return None


@cache
def aten_schemas(name: str) -> tuple[Any, ...] | None:
    packet = getattr(torch.ops.aten, name, None)
    return schemas_in(packet) if isinstance(packet, torch._ops.OpOverloadPacket) else None


def schemas_in(packet: Any) -> tuple[Any, ...]:
    return tuple(getattr(packet, overload)._schema for overload in packet.overloads())


def arguments_written(schema: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What of a call's arguments a schema says is written to, lists element by element."""
    given = dict(kwargs)
    for argument, passed in zip(schema.arguments, args, strict=False):
        if not argument.kwarg_only:
            given[argument.name] = passed
    collects = not any(given.get(name) is False for name in TRAINING)
    return [
        each
        for argument in schema.arguments
        if (argument.alias_info is not None and argument.alias_info.is_write)
        or (argument.name in STATISTICS and collects)
        for each in flat(given.get(argument.name))
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
        for written in arguments_written(overload._schema, args, kwargs or {}):
            self.storages.update(address(t) for t in tensors(written))
        return overload(*args, **(kwargs or {}))


def address(tensor: torch.Tensor) -> int:
    """Of a tensor's storage, which lives as long as the tensor does."""
    return tensor.untyped_storage()._cdata


def tensors(given: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value: itself, or those in a list."""
    return (each for each in flat(given) if isinstance(each, torch.Tensor))


def flat(argument: Any) -> list[Any]:
    """The elements of nested lists and tuples; None is no element."""
    if isinstance(argument, (tuple, list)):
        return [inner for a in argument for inner in flat(a)]
    return [] if argument is None else [argument]
