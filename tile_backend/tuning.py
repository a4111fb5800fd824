"""`python -m tile_backend tune`: the launches of a model, measured under every configuration.

The model is captured as `precompile` does it. Each distinct launch is first pruned without a GPU,
then measured where this machine has the GPU, and recorded at once: whoever interrupts this loses
one launch at most, and the next run goes on with what is not stored.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from tile_backend import machine, precompile, registry, tuning_slices, tuning_steps
from tile_backend.errors import TuningNotKept
from tile_backend.lowering import circumstances, custom_op, tuning_store
from tile_backend.lowering.launch_configuration import DEFAULT
from tile_backend.lowering.progress import track
from tile_backend.lowering.prune import Pruned, pruned
from tile_backend.lowering.tuning_entry import Entry, Spread
from tile_backend.lowering.tuning_sources import sources_behind
from tile_backend.report_text import aligned, plural
from tile_backend.tuning_jobs import Job, jobs_of, ranges_of, seen
from tile_backend.tuning_slices import SliceRow, lines_of_slices

if TYPE_CHECKING:
    from tile_backend.targets import Target
    from tile_backend.tuning_measure import Bench, Outcome

Status = Literal["measured", "stored", "to measure", "not measured", "no kernel"]


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a launch. result: in words.

    entry: what is stored. pruned: what of its configurations was left out before.
    """

    job: Job
    status: Status
    result: str
    entry: Entry | None = None
    pruned: Pruned | None = None
    wrong: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was done. gpu: by architecture, "" where this machine has none of it.

    incomplete: why not all of the model was seen, or why this ended early; "" if neither.
    """

    title: str
    gpus: Mapping[str, str]
    rows: tuple[Row, ...]
    incomplete: str = ""
    interrupted: bool = False
    slices: tuple[SliceRow, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether something was to be measured and was not."""
        return self.interrupted or any(row.status == "not measured" for row in self.rows)

    def to_text(self) -> str:
        """The totals, a line for each launch, then what was left out, and where the file is."""
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        counts = collections.Counter(row.status for row in self.rows)
        totals = ", ".join(f"{n} {status}" for status, n in counts.items())
        where = ", ".join(f"{gpu} ({arch})" if gpu else arch for arch, gpu in self.gpus.items())
        total = len(self.rows)
        kinds = f"{total} launch{'' if total == 1 else 'es'}"
        yield f"{self.title} on {where}: {kinds}" + (f", {totals}" if totals else "")
        yield from aligned([cells(row) for row in self.rows])
        left_out = collections.Counter[str]()
        for row in self.rows:
            if row.pruned is not None:
                left_out.update(row.pruned.left_out_for())
            left_out["give other results"] += len(row.wrong)
        if parts := [f"{n} {reason}" for reason, n in left_out.most_common() if n]:
            count = left_out.total()
            yield f"left out: {count} configuration{plural(count)}: {', '.join(parts)}"
        for text in sorted({row.pruned.unjudged for row in self.rows if row.pruned} - {""}):
            yield f"nothing was left out for its resources: {text}"
        if self.slices:
            yield from lines_of_slices(self.slices)
        for arch, gpu in self.gpus.items():
            yield f"stored in {tuning_store.path_of(arch)}" if gpu else without(arch)
        if self.incomplete:
            yield f"incomplete  {self.incomplete}"

    def to_json(self) -> str:
        """Every launch, with the times of its configurations and why others were left out."""
        rows = [
            {
                "status": row.status,
                "arch": row.job.call.arch,
                "kind": row.job.kind.text,
                "sizes": dict(row.job.kind.sizes),
                "count": row.job.count,
                "chosen": row.entry.chosen if row.entry else None,
                "times": {
                    way: dataclasses.asdict(spread) for way, spread in row.entry.times.items()
                }
                if row.entry
                else {},
                "left_out": {**(row.pruned.left_out if row.pruned else {}), **row.wrong},
            }
            for row in self.rows
        ]
        facts = {"title": self.title, "gpus": dict(self.gpus), "incomplete": self.incomplete}
        slices = [dataclasses.asdict(row) for row in self.slices]
        return json.dumps({**facts, "launches": rows, "slices": slices}, indent=2)


def tune(
    target: Target,
    architectures: Sequence[str],
    dynamic: bool = False,
    again: bool = False,
    training: bool = False,
    bench_of: Callable[[str], Bench | None] | None = None,
    slices: bool = True,
) -> Tuned:
    """Measure what is not stored, or all of it `again`. architectures: this machine's GPUs' if ().

    training: with what needs a gradient, forward and backward.
    slices: after the launches the model's slices as well, see gate.
    bench_of: where launches of an architecture are measured; None: they are pruned only.
    Raises UnknownArchitecture, MissingDependency, TuningNotKept.
    """
    architectures = precompile.checked(architectures)
    custom_op.define(registry.known_fusions())
    benches = {arch: (bench_of or here)(arch) for arch in architectures}
    for arch, bench in benches.items():
        if bench is not None:
            keep(arch, [])
    captured = precompile.capture(target, dynamic, seen, training)
    stopped = captured.break_reason
    if stopped:
        stopped = f"{stopped}; what comes after it is not measured"
    rows: list[Row] = []
    of_slices: list[SliceRow] = []
    interrupted = False
    try:
        jobs = track(jobs_of(captured.visited or {}, architectures), "launches")
        # What is there when somebody interrupts stays in the list.
        rows.extend(row_of(job, benches[job.call.arch], again) for job in jobs)
        for bench in benches.values() if slices else ():
            if bench is not None:
                tuning_slices.measure(target, bench, again, dynamic, training, of_slices)
    except ImportError as error:
        raise precompile.missing("cuda-tile", error, "tune") from error
    except KeyboardInterrupt:
        interrupted = True
        stopped = "interrupted: what was measured is stored, and the same command goes on"
    gpus = {arch: bench.gpu if bench else "" for arch, bench in benches.items()}
    return Tuned(target.title, gpus, tuple(rows), stopped, interrupted, tuple(of_slices))


def here(arch: str) -> Bench | None:
    """This machine's current GPU, if it is of that architecture."""
    from tile_backend import tuning_measure

    if not torch.cuda.is_available():
        return None
    gpu = machine.gpus()[torch.cuda.current_device()]
    return tuning_measure.on_gpu(gpu.name, machine.driver_version()) if gpu.arch == arch else None


def row_of(job: Job, bench: Bench | None, again: bool) -> Row:
    """Look it up, or prune and measure it."""
    from tile_backend.lowering.kernels.launch_plan import KernelLimit

    known = None if bench is None or again else stored(job, bench)
    if known is not None:
        date = known.circumstances.date
        return Row(job, "stored", f"{result(known.times, known.chosen)}  {date}", known)
    if job.ways:
        return row_of_steps(job, bench)
    try:
        found = pruned(job.call)
    except KernelLimit as limit:
        return Row(job, "no kernel", str(limit))
    if found.absent:
        return Row(job, "not measured", found.absent)
    if not found.kept:
        return Row(job, "no kernel", found.summary(), pruned=found)
    if bench is None:
        count = len(found.kept)
        return Row(job, "to measure", f"{count} configuration{plural(count)}", pruned=found)
    from tile_backend.tuning_measure import measure

    outcome = measure(bench, custom_op.record(job.call.op), job.call, job.kind, found.kept)
    entry = entry_of(job, bench, outcome)
    keep(job.call.arch, [entry])
    text = result(outcome.times, outcome.chosen)
    return Row(job, "measured", text, entry, found, outcome.wrong)


def row_of_steps(job: Job, bench: Bench | None) -> Row:
    """Measure the ways to divide a call; their launches are compiled when they run."""
    if bench is None:
        return Row(job, "to measure", f"{len(job.ways)} ways to divide it")
    outcome = tuning_steps.measure(bench, job.call, job.kind, job.ways)
    entry = entry_of(job, bench, outcome)
    keep(job.call.arch, [entry])
    text = result(outcome.times, outcome.chosen)
    return Row(job, "measured", text, entry, wrong=outcome.wrong)


def stored(job: Job, bench: Bench) -> Entry | None:
    """What counts already for such launches on that GPU."""
    found = tuning_store.find(job.call.arch, bench.gpu, "configuration", job.kind)
    return next((f.entry for f in found if f.entry.covers(job.kind.sizes)), None)


def entry_of(job: Job, bench: Bench, outcome: Outcome) -> Entry:
    """The measurement as it is kept."""
    sources = sources_behind("configuration", job.kind.text)
    return Entry(
        sort="configuration",
        kind=job.kind.text,
        ranges=ranges_of(job.kind),
        at=dict(job.kind.sizes),
        times=outcome.times,
        chosen=outcome.chosen,
        circumstances=circumstances.here(bench.gpu, sources, bench.driver),
    )


def keep(arch: str, entries: Sequence[Entry]) -> None:
    """Record, or raise TuningNotKept: nobody wants to measure for nothing."""
    if not tuning_store.record(arch, entries):
        raise TuningNotKept(folder=tuning_store.folder(), variable=tuning_store.FOLDER)


def cells(row: Row) -> tuple[str, ...]:
    """A launch as shown."""
    sizes = ",".join(f"{name}={size}" for name, size in row.job.kind.sizes.items())
    arch, text = row.job.call.arch, row.job.kind.text
    return row.status, arch, f"x{row.job.count}", f"{text} {sizes}", row.result


def result(times: Mapping[str, Spread], chosen: str) -> str:
    """The choice in words, with its time and what it is compared with."""
    own = times[DEFAULT].median
    if chosen != DEFAULT:
        return f"{chosen}: {times[chosen].median:.1f} us, as planned {own:.1f} us"
    return f"as planned: {own:.1f} us, best of {len(times)}"


def without(arch: str) -> str:
    """What to do where there is no such GPU."""
    return (
        f"no {arch} here: run the same command on a machine with that GPU; the compiled kernels are"
        " in the kernel store, which can go along"
    )
