"""Which configuration a launch has: the stored one that was measured fastest, else the plan's own.

What is stored counts for a process as it is when a kind of call is first planned. Where the kernel
has no such configuration any more, or its code cannot be had, that is a warning, and the plan's own
is used.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from tile_backend.lowering import failure, tuning_store
from tile_backend.lowering.launch_kind import kind_of
from tile_backend.lowering.tuning_entry import Kind

DEFAULT = "default"
"""The way of a configuration entry that is the plan's own choice."""


class Measured(NamedTuple):
    """A stored configuration: of which op, on which architecture, its text."""

    op: str
    arch: str
    text: str


_rejected: set[Measured] = set()


def planned(
    op: str, plan: Callable[..., Any], arguments: Mapping[str, Any], outputs: Any, arch: str
) -> tuple[Any, Measured | None]:
    """The launch, or None where there is nothing to compute, and the stored configuration in it.

    plan: of the op's kernel file; the rest are its arguments. Raises what it raises.
    """
    what = f"looking up how {op} was measured"
    measured = None
    if has_choice(plan):
        measured = failure.instead(None, what, None, stored, op, arguments, outputs, arch)
    if measured is not None:
        from tile_backend.lowering.kernels.configuration import Named

        try:
            return plan(arguments, outputs, arch, Named(measured.text)), measured
        except Exception as error:
            if failure.passes(error):
                raise
            reject(measured, str(error))
    return plan(arguments, outputs, arch), None


@functools.cache
def has_choice(plan: Callable[..., Any]) -> bool:
    """Whether a plan can be given a configuration."""
    return "choose" in inspect.signature(plan).parameters


def stored(op: str, arguments: Mapping[str, Any], outputs: Any, arch: str) -> Measured | None:
    """The configuration that is to be taken, where it is not the plan's own."""
    if not tuning_store.has(arch, "configuration"):
        return None
    kind = kind_of_launch(op, arguments, outputs)
    if kind is None:
        return None
    found = tuning_store.find(arch, gpu_of(arch), "configuration", kind)
    text = next((f.entry.chosen for f in found if f.entry.covers(kind.sizes)), DEFAULT)
    measured = Measured(op, arch, text)
    return None if text == DEFAULT or measured in _rejected else measured


def kind_of_launch(op: str, arguments: Mapping[str, Any], outputs: Any) -> Kind | None:
    """The kind under which a launch is measured; None for an op that nobody has declared."""
    from tile_backend.lowering.launch import record_of  # imports what imports this module

    try:
        record = record_of(op)
    except AttributeError:
        return None
    return kind_of(record.op, arguments, [out is not None for out in outputs])


@functools.cache
def gpu_of(arch: str) -> str:
    """The name of this machine's first GPU of that architecture, or ""."""
    if not torch.cuda.is_available():
        return ""
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if arch == f"sm_{major}{minor}":
            return torch.cuda.get_device_name(index)
    return ""


def reject(measured: Measured, reason: str) -> None:
    """Use it no more in this process, and say why."""
    _rejected.add(measured)
    tuning_store.warn(
        f"{measured.op} runs on {measured.arch} as planned, not as {measured.text}, which was"
        f" measured fastest: {reason}; measure again with `python -m tile_backend tune --again`"
    )
