"""Reading one FX node of a Dynamo graph: its fake value, its place in the source, its text."""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import sympy
import torch
from torch import fx

from tile_backend.lowering import input_names, provenance
from tile_backend.lowering.site import GraphLine, TensorSpec

Size: TypeAlias = int | sympy.Expr


def value(argument: Any) -> Any:
    """The fake tensor or number behind a node (Dynamo says example_value, export says val)."""
    if not isinstance(argument, fx.Node):
        return argument
    known = argument.meta.get("example_value")
    return argument.meta.get("val") if known is None else known


def size(dimension: Any) -> Size:
    """A dimension as an int, or as the sympy expression of its symbol. Adds no guard."""
    if isinstance(dimension, torch.SymInt):
        expression = dimension.node.expr
        return int(expression) if expression.is_number else expression
    return int(dimension)


def shape(tensor: torch.Tensor) -> tuple[Size, ...]:
    return tuple(size(dimension) for dimension in tensor.shape)


def strides(tensor: torch.Tensor) -> tuple[Size, ...]:
    return tuple(size(stride) for stride in tensor.stride())


def frames(node: fx.Node) -> tuple[tuple[str, int, str], ...]:
    """(file, line, function) of the call stack that produced the node, outermost first."""
    return provenance.frames(node.meta)


def module_path(node: fx.Node) -> str:
    """`model.layers.0.mlp`, relative to the compiled root; "" for code outside any submodule."""
    return provenance.module_path(node.meta)


def target_name(node: fx.Node) -> str:
    """`mul`, `torch.nn.functional.silu` as `silu`, a method's name as it is."""
    if isinstance(node.target, str):
        return node.target
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    return str(getattr(node.target, "__name__", node.target))


def target_key(node: fx.Node) -> Hashable:
    """What a node calls, for a key that outlives the graph: a function of the user's may go."""
    try:
        return weakref.ref(node.target)
    except TypeError:  # a name, or a method of a type of torch's own
        return node.target


def called_name(node: fx.Node) -> str:
    """The name of the function or method that a node calls; "" for other nodes."""
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def called(node: fx.Node) -> str:
    """The word of a reason for a node: op and line. Names of nodes differ between layers."""
    if not node.op.startswith("call"):
        return f"`{input_names.name(node).rpartition('.')[2]}`"
    place = provenance.source_line(node.meta)
    return f"`{target_name(node)}`" + (f" ({place})" if place else "")


def place(node: fx.Node | None) -> str:
    """Where a reason points to, in brackets: the line of a call, else the input. May be ""."""
    if node is None:
        return ""
    where = provenance.source_line(node.meta) if node.op.startswith("call") else called(node)
    return f" ({where})" if where else ""


def line(node: fx.Node) -> GraphLine:
    """The node as a person reads it, with the user's own source line."""
    path, number, _function = provenance.user_frame(node.meta)
    code = linecache.getline(path, number).strip() if path else ""
    return GraphLine(node.name, text(node), provenance.encodable(path), number, code)


def text(node: fx.Node) -> str:
    """`mul_1 = mul(model.norm.weight, to_1)`, `to_1 = hidden.to(torch.float32)`."""

    def shown(argument: Any) -> str:
        if isinstance(argument, fx.Node):
            return input_names.name(argument)
        if isinstance(argument, (tuple, list)):
            inner = ", ".join(shown(a) for a in argument)
            return f"({inner})" if isinstance(argument, tuple) else f"[{inner}]"
        if isinstance(argument, slice):
            parts = [argument.start, argument.stop, argument.step]
            words = ["" if p is None else shown(p) for p in parts]
            return ":".join(words[:2] if parts[2] is None else words)
        return "..." if argument is Ellipsis else str(argument)

    words = [shown(a) for a in node.args] + [f"{k}={shown(v)}" for k, v in node.kwargs.items()]
    if node.op == "call_method":
        return f"{node.name} = {words[0]}.{node.target}({', '.join(words[1:])})"
    return f"{node.name} = {target_name(node)}({', '.join(words)})"


def spec(tensor: torch.Tensor) -> TensorSpec:
    """A fake tensor as plain data; hints stand in for symbols where a number is needed."""

    def told(sizes: Sequence[Size]) -> tuple[int | str, ...]:
        return tuple(d if isinstance(d, int) else str(d) for d in sizes)

    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=told(shape(tensor)),
        stride=told(strides(tensor)),
        device=str(tensor.device),
        example_shape=tuple(hint(d) for d in tensor.shape),
        example_stride=tuple(hint(d) for d in tensor.stride()),
    )


def hint(dimension: Any) -> int:
    """The size seen when the graph was captured; 2 for one that has none (data-dependent)."""
    if not isinstance(dimension, torch.SymInt):
        return int(dimension)
    known = dimension.node.hint if dimension.node.has_hint() else None
    return 2 if known is None else int(known)
