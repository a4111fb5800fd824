"""One site cut out of its graph: the code that it replaces, and the new code, with the same inputs.

The old code is the original nodes, not a reference of ours, with all that `cut` brings along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import torch
from torch import fx

from tile_backend.lowering import custom_op, random_inputs
from tile_backend.lowering.autocast_state import Autocast, autocast_at
from tile_backend.lowering.cut import Cut
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import hint, target_key, value
from tile_backend.lowering.plan import Candidate


@dataclasses.dataclass(frozen=True)
class Alone:
    """original, new: take a value for each of `inputs`, return one for each root, as a tuple.

    inputs: nodes of the graphs. roots: what both compute, nodes of the graph. values: the fake
    tensors of all that the original code reads and makes. autocast: of the site. ops: in the new.
    loses: whether a kernel in the new code does not keep all NaN and infinity (Op.loses).
    """

    original: fx.GraphModule
    new: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    roots: tuple[fx.Node, ...]
    values: tuple[torch.Tensor, ...]
    autocast: tuple[Autocast, ...]
    ops: tuple[Op, ...]
    loses: bool = False

    @property
    def unusual(self) -> Sequence[float | str]:
        """What numbers the new code has to treat as the old code does."""
        return random_inputs.FINITE if self.loses else random_inputs.UNUSUAL

    @property
    def key(self) -> Hashable:
        """Equal for sites of which one run says all: code, and what kinds of inputs it has."""
        codes = (calls(self.original.graph), calls(self.new.graph))
        return (*codes, tuple(map(kind, self.inputs)), self.ops, self.autocast)

    @property
    def trains(self) -> bool:
        """Whether a result has a gradient."""
        return any(value(root).requires_grad for root in self.roots)

    @property
    def device(self) -> torch.device:
        return torch.device(value(self.roots[0]).device)


def alone(candidate: Candidate, nesting: Nesting, overload: str = "default") -> Alone:
    """overload: of the ops, see custom_op. Raises CannotRun."""
    custom_op.define([candidate.match.fusion])
    cut = Cut((candidate,), nesting)
    roots = candidate.extent.roots
    return Alone(
        cut.code((), roots, overload),
        cut.code((candidate,), roots, overload),
        cut.inputs,
        roots,
        cut.values,
        autocast_at(candidate.root, nesting),
        ops_of(candidate),
        loses(candidate, overload),
    )


def ops_of(candidate: Candidate) -> tuple[Op, ...]:
    call = candidate.call
    return () if call is None or candidate.plain else tuple(c.op for c in call.launched)


def loses(candidate: Candidate, overload: str) -> bool:
    call = candidate.call
    if call is None or candidate.plain:
        return False
    device = value(candidate.root).device.type
    if device != "cuda" and overload != custom_op.INTERPRETED:
        return False
    return any(launched.op.loses for launched in call.launched)


def calls(graph: fx.Graph) -> Hashable:
    """Equal for graphs of the same calls."""
    return tuple((n.op, target_key(n), str((n.args, n.kwargs))) for n in graph.nodes)


def kind(node: fx.Node) -> Hashable:
    """What of an input a kernel or a rounding could depend on."""
    fake = value(node)
    if not isinstance(fake, torch.Tensor):
        return type(fake).__name__
    layout = tuple(map(hint, fake.shape)), tuple(map(hint, fake.stride()))
    return fake.dtype, *layout, fake.device, fake.requires_grad
