"""The ops of all fusions as `torch.ops.tilegym.<name>`: schema, implementation, fake, autograd.

`define(fusions)` is idempotent and may be called again with a user's own fusion. Library.define and
impl, not torch.library.custom_op, whose wrapper costs about three times the host time per call.
The tag `flexible_layout` lets Inductor hand over inputs in the layout they already have.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from tile_backend.lowering import (
    autograd,
    checked,
    failure,
    reference,
    run_time_check,
    shape_check,
    strides,
)
from tile_backend.lowering.fusion import Fusion, Op
from tile_backend.lowering.signature import Signature

LOGGER = logging.getLogger(__name__)
NAMESPACE = "tilegym"
INTERPRETED = "interpreted"
"""The overload that runs an op's kernel in the interpreter, in place of launching it."""
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


@dataclasses.dataclass(frozen=True)
class Record:
    """A defined op: declaration, overload `torch.ops.tilegym.<name>.default`, signature.

    interpreted: the overload of that name, which runs the op's kernel in the CPU interpreter.
    """

    op: Op
    overload: torch._ops.OpOverload
    signature: Signature
    interpreted: torch._ops.OpOverload


_library = torch.library.Library(NAMESPACE, "FRAGMENT")  # unregisters its ops when it is collected
run_time_check.define(_library)
# A copy that stays one: what is a clone of ATen, and changes no stride, torch leaves out, although
# a backward reads it (see kept_copies).
_library.define(
    "copy(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
)
_library.impl("copy", torch.clone, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::copy", torch.clone, lib=_library)
torch.library.register_autograd(f"{NAMESPACE}::copy", lambda _, slope: slope, lib=_library)
_records: dict[str, Record] = {}
_lock = threading.Lock()


def define(fusions: Iterable[Fusion]) -> None:
    """Register every op of every fusion. Raises ValueError where a name is taken by another op."""
    with _lock:
        for fusion in fusions:
            for op in fusion.ops:
                known = _records.get(op.name)
                if known is None:
                    _records[op.name] = _define(op)
                elif known.op != op:
                    raise ValueError(
                        f"fusion {fusion.name!r} declares torch.ops.{NAMESPACE}.{op.name}, which is"
                        f" already defined with another schema or reference; rename its op"
                    )


def define_each(fusions: Iterable[Fusion]) -> None:
    """The same, where one that cannot be defined is no reason to be without the others."""
    for fusion in fusions:
        failure.instead(None, f"defining the ops of {fusion.name}", None, define, [fusion])


def record(name: str) -> Record:
    """The op of that name; KeyError where no fusion that was defined has one."""
    return _records[name]


def known(name: str) -> Record | None:
    """The op of that name, or None."""
    return _records.get(name)


def records() -> tuple[Record, ...]:
    return tuple(_records.values())


def _define(op: Op) -> Record:
    # The default overload first: a call that names none takes the one that was defined first.
    for name in (op.name, f"{op.name}.{INTERPRETED}"):
        _library.define(f"{name}{op.schema}", tags=TAGS)
    packet = getattr(getattr(torch.ops, NAMESPACE), op.name)
    signature = Signature.of(packet.default)
    defined = Record(op, packet.default, signature, getattr(packet, INTERPRETED))
    for name, overload, implementation in (
        (op.name, defined.overload, _implementation(defined)),
        (f"{op.name}.{INTERPRETED}", defined.interpreted, _interpreted(defined)),
    ):
        _library.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", _fake(defined), lib=_library)
        autograd.register(_library, op, overload, signature)
    checked.register(_library, op, signature)
    return defined


def _prepared(
    defined: Record, args: Sequence[Any]
) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
    """The arguments by name, and outputs for them. Raises RuntimeError where sizes do not fit."""
    arguments = defined.signature.bind(args)
    outputs = reference.as_tuple(defined.op.outputs(**arguments))
    shape_check.check(defined.op, arguments, outputs)  # in a compiled graph the fake has done it
    return arguments, outputs


def _implementation(defined: Record) -> Callable[..., Any]:
    def implementation(*args: Any) -> Any:
        found = _on_cpu(defined, args)
        if found is not None:
            return reference.untupled(found)
        arguments, outputs = _prepared(defined, args)
        if not args[0].is_cuda and defined.op.composed:
            from tile_backend.lowering import composition  # imports this module

            fill = functools.partial(composition.on_references, defined, arguments, outputs)
            composition.or_reference(defined, arguments, outputs, fill)
            return reference.untupled(outputs)
        if not args[0].is_cuda:
            return reference.untupled(reference.promised(defined.op, arguments, outputs))
        from tile_backend.lowering import launch  # imports this module

        launch.launch(defined, arguments, outputs)
        return reference.untupled(outputs)

    return implementation


def _on_cpu(defined: Record, args: Sequence[Any]) -> tuple[torch.Tensor, ...] | None:
    """The results of the op's own implementation on a CPU, where it has one and that will do."""
    if defined.op.on_cpu is None or args[0].device.type != "cpu":
        return None
    arguments = defined.signature.bind(args)
    shape_check.check(defined.op, arguments)  # nothing else would stop it from reading too far
    try:
        with reference.without_autocast("cpu"):
            found = defined.op.on_cpu(**arguments)
        return None if found is None else tuple(map(strides.settled, found))
    except Exception as error:
        if failure.is_final(error):
            raise
        said = failure.said(error)
        LOGGER.debug("what %s has for a CPU failed", defined.op.name, exc_info=error)
    from tile_backend.lowering import kernel_launch  # imports this module

    kernel_launch.warn_once(defined.op.name, said, "runs its reference, not its code for a CPU")
    return None


def _interpreted(defined: Record) -> Callable[..., Any]:
    def implementation(*args: Any) -> Any:
        arguments, outputs = _prepared(defined, args)
        from tile_backend.lowering import interpreted

        interpreted.run(defined, arguments, outputs)
        return reference.untupled(outputs)

    return implementation


def _fake(defined: Record) -> Callable[..., Any]:
    def fake(*args: Any) -> Any:
        return reference.untupled(_prepared(defined, args)[1])

    return fake
