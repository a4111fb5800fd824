"""What of a model there is to measure: its distinct launches, and calls that may be divided.

Launches are alike if one measurement speaks for them: the same kind, and sizes in the same ranges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from tile_backend.lowering import (
    composition,
    custom_op,
    dynamic_sizes,
    gate,
    launch_recipe,
    legality,
)
from tile_backend.lowering.launch_configuration import has_choice, kind_of_launch
from tile_backend.lowering.prune import Call
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.lowering.steps import kind_of_steps
from tile_backend.lowering.tensor_layout import Layout
from tile_backend.lowering.tuning_entry import Kind, bucket
from tile_backend.tuning_steps import Step, divisions
from tile_backend.tuning_training import in_training


@dataclasses.dataclass(frozen=True)
class Job:
    """A launch to measure: once for its kind and the ranges of its sizes. count: in the model.

    ways: those to divide it among several launches, where that is what is measured.
    """

    call: Call
    kind: Kind
    count: int
    ways: Mapping[str, Sequence[Step]] = dataclasses.field(default_factory=dict)


class Seen(NamedTuple):
    """A launch of a graph. whole: a call instead, which its op may divide among several launches.

    needed: a call instead, of which these arguments need a gradient.
    """

    site: LaunchSite
    whole: bool = False
    needed: tuple[str, ...] = ()


def seen(call: legality.Call) -> Iterator[Seen]:
    """What there is of a call in a graph."""
    needed = tuple(
        name
        for name, value in call.arguments.items()
        if isinstance(value, torch.Tensor) and value.requires_grad
    )
    if needed:
        yield Seen(LaunchSite.of(call), needed=needed)
        return
    yield from (Seen(site) for site in LaunchSite.all_of(call))
    if call.op.steps is not None:
        yield Seen(LaunchSite.of(call), whole=True)


def jobs_of(found: Mapping[Seen, int], architectures: Sequence[str]) -> list[Job]:
    """What there is to measure, once for each kind and range of sizes.

    Divisions come last: they are measured with the launches as these were found to be fastest.
    """
    jobs: dict[Any, Job] = {}
    for arch in architectures:
        for each, count in sorted(found.items(), key=lambda item: item[0].whole):
            site = dataclasses.replace(each.site, arch=arch)
            for job in jobs_at(each._replace(site=site)):
                key = arch, job.kind.text, tuple(ranges_of(job.kind).items())
                known = jobs.get(key, job)
                jobs[key] = dataclasses.replace(known, count=known.count + count)
    return list(jobs.values())


def jobs_at(each: Seen) -> Iterator[Job]:
    """What one gives to measure, at its sizes and at others that its graph allows."""
    for call in calls_of(each):
        arguments = dict(zip(call.names, call.values, strict=False))
        if each.whole:
            ways = divisions(call, gate.multiprocessors_of(0))
            if len(ways) > 1:
                kind = kind_of_steps(custom_op.record(call.op).op, arguments)
                yield Job(call, kind, 0, ways)
            continue
        launch = kind_of_launch(call.op, arguments, call.values[len(call.names) :])
        if launch is not None and has_kernel_with_choice(call.op):
            yield Job(call, launch, 0)


def calls_of(each: Seen) -> Iterator[Call]:
    """The launches at those sizes, or the call that was seen as a whole."""
    site = each.site
    layouts = [value for value in site.values if isinstance(value, Layout)]
    for trial in dynamic_sizes.trials(layouts, site.environment):
        values = tuple(v.on_meta(trial) if isinstance(v, Layout) else v for v in site.values)
        call = Call(site.op, site.names, values, site.arch)
        if each.needed:
            yield from in_training(call, each.needed)
        elif each.whole:
            yield call
        else:
            for op, names, given in composition.called(site.op, site.names, values):
                yield Call(op, names, given, site.arch)


def has_kernel_with_choice(op: str) -> bool:
    """Whether there is anything to measure."""
    try:
        return has_choice(launch_recipe.planner(op))
    except launch_recipe.NoKernelError:
        return False


def ranges_of(kind: Kind) -> dict[str, tuple[int, int]]:
    """The sizes that a measurement of the kind counts for."""
    return {name: bucket(size) for name, size in kind.sizes.items()}
