"""What runs at the sites of a graph on a GPU under tilegym.kernels="auto", each with its evidence.

Slice by slice: what is stored (evidence); else, where it is asked for, a measurement (measure),
which is stored; else the static rule. Identical slices are decided once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence

from torch import fx

from tile_backend.lowering import (
    device,
    evidence,
    failure,
    gate,
    launch_kind,
    static_rule,
    tuning_store,
)
from tile_backend.lowering.circumstances import has_this_inductor
from tile_backend.lowering.device import Gpu
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.evidence import Choice
from tile_backend.lowering.measure import Measuring, entry, first_line
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.progress import track
from tile_backend.lowering.real_tensors import CannotRun
from tile_backend.lowering.reason import Reason
from tile_backend.lowering.site import Basis, Decision
from tile_backend.lowering.slices import Slice, slices
from tile_backend.lowering.static_rule import Estimate
from tile_backend.lowering.tuning_entry import Entry, Kind
from tile_backend.lowering.tuning_store import Found
from tile_backend.lowering.ways import Ways, sets, ways


@dataclasses.dataclass(frozen=True)
class Means:
    """settings: of the compiler, where they are not its defaults; other ones are other evidence.

    measuring: None where nothing is measured (`explain`, tilegym.tune="off"). again: measure what
    has been measured, too.
    """

    settings: str = ""
    measuring: Measuring | None = None
    again: bool = False


estimates: dict[Hashable, Estimate] = {}
"""Of the slices of this process."""
measured: dict[Hashable, Entry | CannotRun] = {}
"""The same: the store may not be writable."""


def choose(
    candidates: Sequence[Candidate], able: Sequence[Candidate], nesting: Nesting, means: Means
) -> dict[fx.Node, Decision | Reason]:
    """By the root of each candidate of one graph what is to run there, or what failed.

    able: those that can have a kernel. For a site that cannot there is no answer.
    """
    if not candidates:
        return {}
    found: dict[fx.Node, Decision | Reason] = {}
    roots = {candidate.root for candidate in able}
    asked = distinct(candidates, able, nesting)
    for some in track(asked, "measurements") if means.measuring else asked:
        root = some[0].candidates[0].root
        decided = failure.tried("weighing it", root, answers, some, roots, nesting, means)
        if isinstance(decided, Reason):
            sites = (c.root for one in some for c in one.candidates if c.root in roots)
            found |= dict.fromkeys(sites, decided)
        else:
            found |= decided
    return found


def answers(
    some: Sequence[Slice], able: set[fx.Node], nesting: Nesting, means: Means
) -> dict[fx.Node, Decision]:
    """What is to run at the sites of slices that are alike."""
    choice = Question.of(some[0], able, nesting, means).answer()
    decided: dict[fx.Node, Decision] = {}
    for one in some:
        usable = [c for c in one.candidates if c.root in able]
        going_in = {c.root for c in sets(one, usable)[choice.way]}
        decided |= {c.root: decision(c.root in going_in, choice) for c in usable}
    return decided


def questions(
    candidates: Sequence[Candidate], able: Sequence[Candidate], nesting: Nesting, means: Means
) -> list[tuple[Question, tuple[Slice, ...]]]:
    """Each distinct slice that can have a kernel, and all that are like it."""
    roots = {candidate.root for candidate in able}
    found = distinct(candidates, able, nesting)
    return [(Question.of(some[0], roots, nesting, means), some) for some in found]


def distinct(
    candidates: Sequence[Candidate], able: Sequence[Candidate], nesting: Nesting
) -> list[tuple[Slice, ...]]:
    """The slices that can have a kernel, those together that are alike."""
    effects: Effects = nesting.effects[candidates[0].root.graph]
    roots = {candidate.root for candidate in able}
    found: dict[Hashable, tuple[Slice, ...]] = {}
    for one in slices(candidates, effects):
        if any(candidate.root in roots for candidate in one.candidates):
            found[one.key] = (*found.get(one.key, ()), one)
    return list(found.values())


def decision(goes_in: bool, choice: Choice) -> Decision:
    return Decision(
        "kernel" if goes_in else "reference",
        choice.note,
        basis=choice.basis,
        measurement=choice.measurement,
    )


@dataclasses.dataclass(frozen=True)
class Question:
    """One slice, of which `able` can have a kernel."""

    slice: Slice
    able: tuple[Candidate, ...]
    nesting: Nesting
    means: Means
    gpu: Gpu
    kind: Kind

    @classmethod
    def of(cls, one: Slice, able: set[fx.Node], nesting: Nesting, means: Means) -> Question:
        call = one.candidates[0].call
        gpu = device.of(gate.device_of(call)) if call is not None else None
        assert gpu is not None
        usable = tuple(c for c in one.candidates if c.root in able)
        return cls(one, usable, nesting, means, gpu, kind_of(one, usable, means.settings))

    @property
    def key(self) -> Hashable:
        ranges = tuple(self.kind.range_of(name) for name in self.kind.sizes)
        return self.slice.key, self.kind.text, ranges, self.gpu

    def answer(self) -> Choice:
        """The way to go, with the evidence."""
        note, fresh = "", False
        found = self.stored()
        measuring = self.means.measuring
        if measuring is not None and self.able and (self.means.again or not self.is_known(found)):
            made = self.measured(measuring)
            if isinstance(made, CannotRun):
                note = f"; not measured: {made}"
            else:
                fresh = True
                found = [f for f in found if not same(f.entry, made)] + [Found(made, "user")]
        choice = evidence.choice(found, self.kind, self.slice.words)
        if choice is not None:
            basis: Basis = "measured" if fresh else choice.basis
            return dataclasses.replace(choice, basis=basis, note=choice.note + note)
        estimate = self.estimate()
        note += evidence.stale(self.gpu, self.kind)
        return Choice(estimate.chosen, "estimated", None, estimate.text + note)

    def stored(self) -> list[Found]:
        """What counts for this slice, in the store and from this process."""
        found = tuning_store.find(self.gpu.arch, self.gpu.name, "gate", self.kind)
        return evidence.counting(found, list(sets(self.slice, self.able)))

    def is_known(self, found: Iterable[Found]) -> bool:
        """Whether something was measured for the sizes at capture, beside this Inductor."""
        return any(
            f.entry.covers(self.kind.sizes) and has_this_inductor(f.entry.circumstances.torch)
            for f in found
        )

    def measured(self, measuring: Measuring) -> Entry | CannotRun:
        """Once per process; what succeeds is stored."""
        if self.key not in measured or self.means.again:
            try:
                made = entry(self.ways(), self.kind, self.gpu, measuring)
            except CannotRun as why:
                measured[self.key] = CannotRun(str(why))  # without its traceback
            except Exception as error:  # noqa: BLE001 - said, and the static rule decides
                measured[self.key] = CannotRun(f"{type(error).__name__}: {first_line(error)}")
            else:
                measured[self.key] = made
                tuning_store.record(self.gpu.arch, [made])
        return measured[self.key]

    def estimate(self) -> Estimate:
        """By the static rule; where the model fails, Inductor's."""
        if self.key not in estimates:
            try:
                estimates[self.key] = static_rule.estimate(self.ways(), self.gpu)
            except Exception as error:  # noqa: BLE001 - said, and the original ops stay
                estimates[self.key] = static_rule.unknown(error)
        return estimates[self.key]

    def ways(self) -> Ways:
        return ways(self.slice, self.able, self.nesting)


def same(one: Entry, other: Entry) -> bool:
    """Whether the second replaces the first in a store."""
    return one.ranges == other.ranges and one.circumstances.gpu == other.circumstances.gpu


def kind_of(one: Slice, able: Sequence[Candidate], settings: str) -> Kind:
    """Of a slice: its sites, the neighbours, forward or both, and the compiler's settings.

    Sizes are those of the first site.
    """
    kinds = [
        launch_kind.kind_of(c.call.op, c.call.arguments, c.call.read)
        for c in one.candidates
        if c.call is not None
    ]
    text = " + ".join(kind.text for kind in kinds)
    if one.words:
        text += f" with {' '.join(one.words)}"
    if len(able) < len(one.candidates):
        known = {c.root for c in able}
        places = (str(i) for i, c in enumerate(one.candidates) if c.root in known)
        text += f" able={','.join(places)}"
    if any(value(root).requires_grad for root in one.roots):
        text += " trains"
    if settings:
        text += f" {settings}"
    first = kinds[0]
    return Kind(text, first.sizes, first.least, first.most)


def settings_of(mode: str | None, options: Mapping[str, object]) -> str:
    """What of mode and options may change how fast Inductor's code is; CUDA graphs do not."""
    plain = (None, "default", "reduce-overhead")
    words = [] if mode in plain else [f"mode={str(mode).removesuffix('-no-cudagraphs')}"]
    words += [f"{k}={v}" for k, v in sorted(options.items()) if k != "triton.cudagraphs"]
    return " ".join(words)
