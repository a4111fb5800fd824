"""Values of a graph as meta tensors of the sizes seen at capture: to run code that moves nothing.

No guard is added: a dynamic size is a number there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import no_python_dispatcher
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes

from tile_backend.lowering.node import hint, value

without_fakes = unset_fake_temporarily
"""Inside, tensors that are made are no fakes, whatever mode is in force."""


@contextlib.contextmanager
def without_modes() -> Iterator[None]:
    """Inside, nothing is traced either: no mode sees an operator, nor do rules in Python.

    By such a rule (torch 2.13, nll_loss) a loss per row of meta tensors is a scalar.
    """
    with _disable_current_modes(), no_python_dispatcher():
        yield


def like(given: Any) -> Any:
    """A tensor as a meta tensor; other values as they are, symbolic numbers as they were."""
    if isinstance(given, torch.Tensor):
        sizes, strides = [hint(s) for s in given.shape], [hint(s) for s in given.stride()]
        return torch.empty_strided(sizes, strides, dtype=given.dtype, device="meta")
    if isinstance(given, torch.SymInt):
        return hint(given)
    if isinstance(given, (torch.SymFloat, torch.SymBool)):
        known = given.node.hint if given.node.has_hint() else 1
        return type(known)(known)
    if type(given) in (tuple, list, torch.Size):
        return type(given)(map(like, given)) if not isinstance(given, torch.Size) else given
    return given


def call(node: fx.Node, values: Mapping[fx.Node, Any] | None = None) -> Any:
    """What a call gives on such values. Raises what it raises.

    values: of the nodes among its arguments, where the caller looks at them afterwards.
    """

    def given(argument: Any) -> Any:
        return values[argument] if values and argument in values else like(value(argument))

    args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), given)
    args, kwargs = (on_meta(part) for part in (args, kwargs))
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def on_meta(argument: Any) -> Any:
    """The argument with devices that are spelled out replaced."""
    return fx.node.map_aggregate(
        argument, lambda a: torch.device("meta") if isinstance(a, torch.device) else a
    )


def node(given: fx.Node) -> Any:
    """The value of a node likewise."""
    return like(value(given))
