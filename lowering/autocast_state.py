"""Which autocast is on at a node: switched on around the compile, by the graph, or by a call."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import fx

from tile_backend.lowering import higher_order
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import called_name

CACHED = "wrap_with_autocast"
"""The higher-order op whose body runs under the autocast that its first arguments say."""


@dataclasses.dataclass(frozen=True)
class Autocast:
    """As torch.autocast takes it."""

    device_type: str
    dtype: torch.dtype | None
    enabled: bool

    @classmethod
    def ambient(cls, device_type: str) -> Autocast:
        """What is on here and now."""
        on = torch.is_autocast_enabled(device_type)
        return cls(device_type, torch.get_autocast_dtype(device_type), on)


def autocast_at(node: fx.Node, nesting: Nesting) -> tuple[Autocast, ...]:
    """The innermost one of each kind of device, in force at a node; for `entered`."""
    found = {kind: Autocast.ambient(kind) for kind in ("cpu", "cuda")}
    found |= {a.device_type: a for a in switched(node, nesting)}
    return tuple(found.values())


def switched(node: fx.Node, nesting: Nesting) -> Iterator[Autocast]:
    """What the graphs switch on around a node, outermost first. Of a body its first call counts."""
    entries = nesting.entries[node.graph]
    if entries:
        call = entries[0].call
        yield from switched(call, nesting)
        if higher_order.name(call) == CACHED:
            yield autocast_of(call)
    order = nesting.effects[node.graph].position
    open_ones: list[fx.Node] = []
    for other in order:
        if order[other] >= order[node]:
            break
        if called_name(other) == "_enter_autocast":
            open_ones.append(other)
        elif called_name(other) == "_exit_autocast" and open_ones:
            open_ones.pop()
    yield from map(autocast_of, open_ones)


def autocast_of(call: fx.Node) -> Autocast:
    """(device type, dtype, enabled, ...) are the first arguments of the calls that switch it on."""
    kind, dtype, enabled, *_ = (*call.args, *(None,) * 3)
    assert isinstance(kind, str)
    assert dtype is None or isinstance(dtype, torch.dtype)
    return Autocast(kind, dtype, enabled is not False)


@contextlib.contextmanager
def entered(states: Iterable[Autocast]) -> Iterator[None]:
    """Inside, autocast is as these say."""
    with contextlib.ExitStack() as stack:
        for state in states:
            if torch.amp.is_autocast_available(state.device_type):
                stack.enter_context(
                    torch.autocast(state.device_type, state.dtype, state.enabled, False)
                )
        yield
