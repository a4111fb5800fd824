"""May this match be rewritten without changing what the program means? Each "no" is a Reason.

A rewrite is legal when no interior value is needed elsewhere, nothing is written to between the ops
it joins, and the op returns values of the same dtype, shape and device in the same place of the
program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tile_backend.lowering import read_place, shapes
from tile_backend.lowering.canonical import CanonicalGraph, is_dense, is_transformed
from tile_backend.lowering.extent import Extent, shareable
from tile_backend.lowering.fusion import Fusion, Op, Respelling
from tile_backend.lowering.mask.source import Source
from tile_backend.lowering.match import Match
from tile_backend.lowering.node import called, shape, value
from tile_backend.lowering.realise import results
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.scalars import scalars_of
from tile_backend.lowering.signature import declared
from tile_backend.lowering.strides import layout, way_to
from tile_backend.lowering.uses import values_read

Check = Reason | None


@dataclasses.dataclass(frozen=True)
class Call:
    """The op call that a match stands for, on fake operands.

    arguments: every schema argument by name; tensors are fakes.
    outputs:   its fake outputs, with the layout the op promises.
    results:   the same as the graph has them: views of the outputs.
    read:      whether each is read by anything; () where that is not known.
    mask:      what its mask means, in words; "" where it has none or nothing could be told.
    sources:   arguments that are no operands of the match, but tensors that its mask reads.
    respelled: what takes the place of the original ops where no kernel runs, if that is better.
    masked:    `arguments` as they were before facts took the mask's place.
    open:      names of numbers that may change from call to call: here as they were at capture.
    steps:     the calls that are made in its place (see steps), on the same fakes; mostly none.
    drops:     values that the model returns are dropped with the original ops.
    """

    op: Op
    arguments: Mapping[str, Any]
    outputs: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, ...]
    read: tuple[bool, ...] = ()
    mask: str = ""
    sources: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    respelled: Respelling | None = None
    masked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    open: tuple[str, ...] = ()
    steps: tuple[Call, ...] = ()
    drops: bool = False

    @property
    def launched(self) -> tuple[Call, ...]:
        """The calls whose kernels run: its steps, or itself."""
        return self.steps or (self,)


def structure(
    match: Match, extent: Extent, canonical: CanonicalGraph, drops: frozenset[str] = frozenset()
) -> Check:
    """What can be told from the graph alone, before the op is tried on fake tensors.

    drops: the fusions that may drop what the graph returns (Fusion.drops).
    """
    return (
        match.pattern.spelling.declined
        or unaliased(extent, canonical)
        or read_place.same_versions(extent, canonical)
        or (
            given_up(match.fusion, extent, canonical, drops)
            if match.fusion.drops
            else contained(extent, canonical)
        )
        or read_place.in_order(extent, canonical)
        or read_place.kept(extent, canonical)
    )


def contained(extent: Extent, canonical: CanonicalGraph) -> Check:
    if not extent.escapes:
        return None
    node = extent.escapes[0]
    users = [u for u in canonical.uses.of(node) if u not in extent.elided]
    text = f"the result of {called(node)} inside it is also {used_by(users)}"
    return Reason(ReasonKind.INTERIOR_VALUE_ESCAPES, text, node.name)


def used_by(users: Sequence[fx.Node]) -> str:
    """Used by these calls, returned by the graph, or both."""
    read = [called(u) for u in users if u.op != "output"]
    words = [f"used by {', '.join(dict.fromkeys(read))}"] if read else []
    return " and ".join(words + ["returned by the graph"] * (len(read) < len(users)))


def given_up(
    fusion: Fusion, extent: Extent, canonical: CanonicalGraph, drops: frozenset[str]
) -> Check:
    """Nobody reads what is computed inside, but for what the model returns and may do without."""
    for node in kept_alive(extent, canonical):
        users = [u for u in canonical.uses.of(node) if u not in extent.elided]
        others = [u for u in users if u.op != "output"]
        if others:
            text = f"the {fusion.drops} ({called(node)}) are also {used_by(others)}"
            return Reason(ReasonKind.INTERIOR_VALUE_ESCAPES, text, node.name)
        if fusion.name not in drops:
            return Reason(
                ReasonKind.INTERIOR_VALUE_ESCAPES,
                f"the model also returns the {fusion.drops} ({called(node)})",
                node.name,
                f"compile with tilegym.{fusion.drop_option}=True, or return the loss alone",
            )
    return None


def kept_alive(extent: Extent, canonical: CanonicalGraph) -> tuple[fx.Node, ...]:
    """Elided nodes that something outside reads, views among them, but for those of operands."""
    heavy, inside = set[fx.Node](), set(extent.elided)
    for node in extent.interior:
        if not shareable(node, canonical) or not heavy.isdisjoint(values_read(node)):
            heavy.add(node)
    return tuple(
        node
        for node in extent.interior
        if node in heavy
        and node not in extent.roots
        and any(user not in inside for user in canonical.uses.of(node))
    )


def unaliased(extent: Extent, canonical: CanonicalGraph) -> Check:
    """Plain tensors only, and no interior value whose storage the program writes to."""
    for node in (*extent.operands, *extent.elided):
        known = value(node)
        if is_transformed(known):
            return Reason(
                ReasonKind.SEMANTICS_UNSUPPORTED,
                "it lies inside torch.func.vmap or torch.func.grad, where the op has no rule",
                node.name,
            )
        if isinstance(known, torch.Tensor) and not is_dense(known):
            return Reason(
                ReasonKind.TENSOR_SUBCLASS,
                f"a tensor of it is a {type(known).__name__}, for which the op has no rule",
                node.name,
            )
    for node in extent.elided:
        if node in canonical.effects.unsettled:
            return Reason(
                ReasonKind.MUTATION_BARRIER,
                canonical.effects.overwritten(node),
                node.name,
            )
    return None


# --- the op on fake tensors -----------------------------------------------------------------------


def call(match: Match, operands: Mapping[str, Any]) -> Call | Reason:
    """Bind the op's arguments and run its `outputs` under the graph's fake mode."""
    spelling, op = match.pattern.spelling, match.fusion.op(match.pattern.spelling.op)
    bound = scalars_of(match)
    if isinstance(bound, Reason):
        return bound
    scalars, left_open = bound
    fixed = {
        name: given({**operands, **scalars}) if callable(given) else given
        for name, given in spelling.attributes.items()
    }
    arguments = declared(op).filled({**operands, **scalars, **fixed})
    for limit in match.fusion.limits:
        reason = limit(arguments)
        if reason is not None:
            return reason
    with fake_mode_of([value(match.roots[0].node)]):
        made = op.outputs(**arguments)
        outputs = made if isinstance(made, tuple) else (made,)
        return Call(op, arguments, outputs, tuple(results(match, outputs)), open=left_open)


def fake_mode_of(tensors: Any) -> FakeTensorMode:
    fakes = [t for t in tensors if isinstance(t, FakeTensor)]
    return fakes[0].fake_mode if fakes else (detect_fake_mode() or FakeTensorMode())


def same_results(call: Call, extent: Extent) -> Check:
    """The op's results have the dtype, shape and device of what they replace, and a way to its
    strides.
    """
    for root, new in zip(extent.roots, call.results, strict=True):
        old = value(root)
        if old.dtype != new.dtype:
            return Reason(
                ReasonKind.DTYPE_LIMIT,
                f"the op returns {new.dtype} where the model has {old.dtype}",
                root.name,
            )
        if not shapes.equal(shape(old), shape(new)):
            return Reason(
                ReasonKind.SHAPE_UNPROVABLE,
                f"the op returns shape {tuple(new.shape)} where the model has {tuple(old.shape)}",
                root.name,
            )
        if old.device != new.device:
            return Reason(
                ReasonKind.SEMANTICS_UNSUPPORTED,
                f"the op returns a tensor on {new.device} where the model has {old.device}",
                root.name,
            )
        if way_to(layout(old), layout(new)) is None:
            return Reason(
                ReasonKind.STRIDE_LIMIT,
                f"no view or copy of the op's result has the strides {tuple(old.stride())}",
                root.name,
            )
    devices = {t.device for t in call.arguments.values() if isinstance(t, torch.Tensor)}
    if len(devices) > 1:
        named = ", ".join(sorted(str(d) for d in devices))
        return Reason(
            ReasonKind.SEMANTICS_UNSUPPORTED, f"its operands are on several devices: {named}"
        )
    return None
