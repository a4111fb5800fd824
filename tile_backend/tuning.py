"""`python -m tile_backend tune`: the launches of a model, measured under every configuration.

The model is captured as `precompile` does it. Each distinct launch is first pruned without a GPU,
then measured where this machine has the GPU, and recorded at once: whoever interrupts this loses
one launch at most, and the next run goes on with what is not stored.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from tile_backend import machine, precompile
from tile_backend.errors import TuningNotKept
from tile_backend.lowering import composition, custom_op, dynamic_sizes, launch_recipe, tuning_store
from tile_backend.lowering.launch_configuration import DEFAULT, has_choice, kind_of_launch
from tile_backend.lowering.progress import track
from tile_backend.lowering.prune import Call, Pruned, pruned
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.lowering.tensor_layout import Layout
from tile_backend.lowering.tuning_entry import Circumstances, Entry, Kind, Spread, bucket
from tile_backend.lowering.tuning_sources import sources_of
from tile_backend.report_text import aligned, plural

if TYPE_CHECKING:
    from tile_backend.targets import Target
    from tile_backend.tuning_measure import Bench, Outcome
    from tile_backend.tuning_slices import SliceRow

Status = Literal["measured", "stored", "to measure", "no kernel"]


@dataclasses.dataclass(frozen=True)
class Job:
    """A launch to measure: once for its kind and the ranges of its sizes. count: in the model."""

    call: Call
    kind: Kind
    count: int


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
            yield from self.lines_of_slices()
        for arch, gpu in self.gpus.items():
            yield f"stored in {tuning_store.path_of(arch)}" if gpu else without(arch)
        if self.incomplete:
            yield f"incomplete  {self.incomplete}"

    def lines_of_slices(self) -> Iterator[str]:
        """Their totals, and a line for each."""
        counts = collections.Counter(row.status for row in self.slices)
        total = len(self.slices)
        yield f"{total} slice{plural(total)}, {', '.join(f'{n} {s}' for s, n in counts.items())}"
        rows = ((r.status, f"x{r.count}", r.title, f"{r.chosen}: {r.result}") for r in self.slices)
        yield from aligned(list(rows))

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
    bench_of: Callable[[str], Bench | None] | None = None,
    slices: bool = True,
) -> Tuned:
    """Measure what is not stored, or all of it `again`. architectures: this machine's GPUs' if ().

    slices: after the launches the model's slices as well, see gate.
    bench_of: where launches of an architecture are measured; None: they are pruned only.
    Raises UnknownArchitecture, MissingDependency, TuningNotKept.
    """
    architectures = precompile.checked(architectures)
    benches = {arch: (bench_of or here)(arch) for arch in architectures}
    for arch, bench in benches.items():
        if bench is not None:
            keep(arch, [])
    sites, stopped = precompile.sites_of(target, architectures, dynamic)
    if stopped:
        stopped = f"{stopped}; what comes after it is not measured"
    rows: list[Row] = []
    of_slices: list[SliceRow] = []
    interrupted = False
    try:
        jobs = track(jobs_of(sites), "launches")
        # What is there when somebody interrupts stays in the list.
        rows.extend(row_of(job, benches[job.call.arch], again) for job in jobs)
        for bench in benches.values() if slices else ():
            if bench is not None:
                measure_slices(target, bench, again, dynamic, of_slices)
    except ImportError as error:
        raise precompile.missing("cuda-tile", error, "tune") from error
    except KeyboardInterrupt:
        interrupted = True
        stopped = "interrupted: what was measured is stored, and the same command goes on"
    gpus = {arch: bench.gpu if bench else "" for arch, bench in benches.items()}
    return Tuned(target.title, gpus, tuple(rows), stopped, interrupted, tuple(of_slices))


def measure_slices(
    target: Target, bench: Bench, again: bool, dynamic: bool, rows: list[SliceRow]
) -> None:
    """The second step."""
    from tile_backend import tuning_slices

    tuning_slices.measure(target, bench, again, dynamic, rows)


def here(arch: str) -> Bench | None:
    """This machine's current GPU, if it is of that architecture."""
    from tile_backend import tuning_measure

    if not torch.cuda.is_available():
        return None
    gpu = machine.gpus()[torch.cuda.current_device()]
    return tuning_measure.on_gpu(gpu.name, machine.driver_version()) if gpu.arch == arch else None


def jobs_of(sites: Mapping[LaunchSite, int]) -> list[Job]:
    """The distinct launches: of kernels with a choice, one for each kind and range of sizes."""
    found: dict[Any, Job] = {}
    for site, count in sites.items():
        for call in calls_of(site):
            arguments = dict(zip(call.names, call.values, strict=False))
            kind = kind_of_launch(call.op, arguments, call.values[len(call.names) :])
            if kind is None or not has_kernel_with_choice(call.op):
                continue
            key = call.arch, kind.text, tuple(ranges_of(kind).items())
            known = found.get(key, Job(call, kind, 0))
            found[key] = dataclasses.replace(known, count=known.count + count)
    return list(found.values())


def calls_of(site: LaunchSite) -> Iterator[Call]:
    """The launches of a site at its sizes, and at others that its graph allows."""
    layouts = [value for value in site.values if isinstance(value, Layout)]
    for trial in dynamic_sizes.trials(layouts, site.environment):
        values = [v.on_meta(trial) if isinstance(v, Layout) else v for v in site.values]
        for op, names, given in composition.called(site.op, site.names, values):
            yield Call(op, names, given, site.arch)


def has_kernel_with_choice(op: str) -> bool:
    """Whether there is anything to measure."""
    try:
        return has_choice(launch_recipe.planner(op))
    except launch_recipe.NoKernelError:
        return False


def row_of(job: Job, bench: Bench | None, again: bool) -> Row:
    """Look it up, or prune and measure it."""
    from tile_backend.lowering.kernels.launch_plan import KernelLimit

    known = None if bench is None or again else stored(job, bench)
    if known is not None:
        date = known.circumstances.date
        return Row(job, "stored", f"{result(known.times, known.chosen)}  {date}", known)
    try:
        found = pruned(job.call)
    except KernelLimit as limit:
        return Row(job, "no kernel", str(limit))
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


def stored(job: Job, bench: Bench) -> Entry | None:
    """What counts already for such launches on that GPU."""
    found = tuning_store.find(job.call.arch, bench.gpu, "configuration", job.kind)
    return next((f.entry for f in found if f.entry.covers(job.kind.sizes)), None)


def entry_of(job: Job, bench: Bench, outcome: Outcome) -> Entry:
    """The measurement as it is kept."""
    return Entry(
        sort="configuration",
        kind=job.kind.text,
        ranges=ranges_of(job.kind),
        at=dict(job.kind.sizes),
        times=outcome.times,
        chosen=outcome.chosen,
        circumstances=circumstances(bench, job.call.op),
    )


def circumstances(bench: Bench, *ops: str) -> Circumstances:
    """Of a measurement made now."""
    return Circumstances(
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        gpu=bench.gpu,
        driver=bench.driver,
        torch=torch.__version__,
        cuda_tile=machine.package_version("cuda-tile"),
        compiler=machine.tileiras_version(),
        sources=sources_of(frozenset(ops)),
    )


def ranges_of(kind: Kind) -> dict[str, tuple[int, int]]:
    """The sizes that a measurement of the kind counts for."""
    return {name: bucket(size) for name, size in kind.sizes.items()}


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
