"""The ways to compile a slice: nothing of ours, the op of every site, and each site's op alone.

Each is code of the same inputs and results. A site that cannot have its kernel has none in any way.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from tile_backend.lowering import custom_op
from tile_backend.lowering.alone import ops_of
from tile_backend.lowering.autocast_state import Autocast, autocast_at
from tile_backend.lowering.cut import Cut
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.slices import Slice
from tile_backend.lowering.tuning_entry import INDUCTOR

Way = str
"""INDUCTOR, or the names of ops joined by "+"; the second site of an op is "rms_norm#2"."""


@dataclasses.dataclass(frozen=True)
class Ways:
    """codes: functions of `inputs` and `led` that return `roots`: nodes of the graph.

    chosen: by way the sites whose op goes in. values: the fake tensors of all
    that they read or make.

    led: masks mostly, which many layers share and no way has to compute; `leading` makes them from
    the inputs.
    """

    leading: fx.GraphModule
    led: tuple[fx.Node, ...]
    codes: Mapping[Way, fx.GraphModule]
    chosen: Mapping[Way, tuple[Candidate, ...]]
    inputs: tuple[fx.Node, ...]
    roots: tuple[fx.Node, ...]
    values: tuple[torch.Tensor, ...]
    autocast: tuple[Autocast, ...]

    @property
    def trains(self) -> bool:
        """Whether a result has a gradient."""
        return any(value(root).requires_grad for root in self.roots)

    @property
    def device(self) -> torch.device:
        return torch.device(value(self.roots[0]).device)

    def ops(self, way: Way) -> int:
        """How many ops of ours a way has."""
        return sum(len(ops_of(candidate)) for candidate in self.chosen[way])


def sets(slice_: Slice, able: Sequence[Candidate]) -> dict[Way, tuple[Candidate, ...]]:
    """The sites that each way has. able: those of the slice that can have a kernel."""
    names = titles(slice_.candidates)
    found: dict[Way, tuple[Candidate, ...]] = {INDUCTOR: ()}
    if able:
        found["+".join(names[c.root] for c in able)] = tuple(able)
    if len(able) > 1:
        found |= {names[c.root]: (c,) for c in able}
    return found


def titles(candidates: Sequence[Candidate]) -> dict[fx.Node, str]:
    """A name for each site of a slice, by its root."""
    seen: collections.Counter[str] = collections.Counter()
    found = {}
    for candidate in candidates:
        assert candidate.call is not None
        name = candidate.call.op.name
        seen[name] += 1
        found[candidate.root] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return found


def ways(slice_: Slice, able: Sequence[Candidate], nesting: Nesting) -> Ways:
    """Raises CannotRun."""
    custom_op.define([candidate.match.fusion for candidate in slice_.candidates])
    cut = Cut(slice_.candidates, nesting, slice_.neighbours)
    roots, chosen = slice_.roots, sets(slice_, able)
    return Ways(
        cut.leading(),
        cut.led,
        {way: cut.code(sites, roots, given=cut.led) for way, sites in chosen.items()},
        chosen,
        cut.inputs,
        roots,
        cut.values,
        autocast_at(slice_.candidates[0].root, nesting),
    )
