"""Who needs a value: the calls that read its elements, as far as anything needs what they return.

Dynamo's graph has calls that nobody needs (what a log or a debugger would have read), and calls
that ask for no more of an operand than its shape or dtype (`mask.expand_as(scores)`). AOTAutograd
traces the graph into sizes and drops what is left without readers, so neither keeps a value from
being elided, and neither costs anything where it stays. Nothing is deleted here: such a call keeps
reading the node that it read, and what that node is computed from stays in the graph for it.

Needed is what the graph returns, what has an effect (a write, a body, a switch, an assertion, a
random number, a function that is not torch's), and what a needed call reads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from tile_backend.lowering.effects import Effects
from tile_backend.lowering.node import called_name, value
from tile_backend.lowering.writes import flat

FIRST = (0, ("input", "self"))
SECOND = (1, ("other", "tensor"))
NOT_READ: Mapping[str, tuple[int, tuple[str, ...]]] = {
    **dict.fromkeys(("zeros_like", "ones_like", "empty_like", "full_like"), FIRST),
    **dict.fromkeys(("rand_like", "randn_like", "randint_like"), FIRST),
    **dict.fromkeys(("new", "new_tensor", "new_empty", "new_zeros", "new_ones", "new_full"), FIRST),
    **dict.fromkeys(("new_empty_strided", "fill"), FIRST),
    **dict.fromkeys(("expand_as", "view_as", "reshape_as", "resize_as", "type_as", "to"), SECOND),
}
"""By the name of a call, the operand whose elements it does not read: its place and its names."""

TORCH = frozenset(
    "torch torch.functional torch.nn.functional torch._ops.aten torch._ops.prims torch._C._nn"
    " torch._C._special torch._C._linalg torch._C._fft _operator builtins".split()
)
"""Modules whose functions return tensors without another effect, but for writes and randomness."""


def values_read(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands of which a node reads more than shape, strides, dtype and device."""
    if asks_only(node):
        return ()
    skipped = not_read(node)
    if skipped is None:
        return tuple(node.all_input_nodes)
    given = [a for place, a in enumerate(node.args) if place != skipped[0]]
    given += [a for name, a in node.kwargs.items() if name not in skipped[1]]
    read: dict[fx.Node, None] = {}
    fx.node.map_arg(given, lambda argument: read.setdefault(argument))
    return tuple(read)


def asks_only(node: fx.Node) -> bool:
    """Whether what a call returns of its operands is a size, a stride, a dtype: no element.

    Whole numbers that are computed (`item`, `sum`) are read from elements, so it goes by names.
    """
    asks = operation(node) in METADATA and is_torchs(node)
    return asks or (node.target is getattr and not holds_tensors(node))


METADATA = frozenset(
    (
        *("size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset"),
        *("is_contiguous", "element_size", "get_device", "result_type", "can_cast"),
        *("is_floating_point", "is_complex", "is_signed", "is_tensor", "__len__"),
        *("sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "_assert_tensor_metadata"),
    )
)
"""Calls that read no element of any operand."""


def not_read(node: fx.Node) -> tuple[int, tuple[str, ...]] | None:
    """The place and the names of the operand that is asked for its metadata alone."""
    return NOT_READ.get(operation(node)) if is_torchs(node) else None


def operation(node: fx.Node) -> str:
    """What a call does, by its name without that of an overload; "" for other nodes."""
    return called_name(node).split(".")[0]


def is_torchs(node: fx.Node) -> bool:
    """Whether torch defines what is called: anybody's op may be called `to`, and read both."""
    if node.op == "call_method":
        return hasattr(torch.Tensor, str(node.target))
    return node.op == "call_function" and getattr(node.target, "__module__", None) in TORCH


def holds_tensors(node: fx.Node) -> bool:
    """Whether the value of a node is a tensor, or several."""
    return any(isinstance(part, torch.Tensor) for part in flat(value(node)))


def has_effect(node: fx.Node) -> bool:
    """Whether a node that is no barrier may do more than return tensors."""
    if node.op in ("placeholder", "get_attr"):
        return False
    if node.op not in ("call_function", "call_method") or not holds_tensors(node):
        return True
    return not is_torchs(node) or is_random(operation(node))


@functools.cache
def is_random(name: str) -> bool:
    """Whether the operation of that name advances a generator, in any of its overloads."""
    packet: Any = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    tags = (getattr(packet, overload).tags for overload in packet.overloads())
    return any(torch.Tag.nondeterministic_seeded in found for found in tags)


class Uses:
    """The uses of all values of one graph. needed: the nodes whose value something needs."""

    def __init__(self, effects: Effects) -> None:
        self.needed: set[fx.Node] = set()
        barriers = set(effects.barriers)
        for node in reversed(effects.position):
            if node in barriers:
                self.needed.update((node, *node.all_input_nodes))
            elif node in self.needed or has_effect(node):
                self.needed.update((node, *values_read(node)))

    def of(self, node: fx.Node) -> list[fx.Node]:
        """The needed nodes that read the elements of a value, in the order of `users`."""
        return [user for user in node.users if user in self.needed and node in values_read(user)]
