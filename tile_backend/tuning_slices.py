"""The second step of `tune`: the slices of a model, timed with and without our ops (see gate.md).

The model is captured as for its launches, on whatever device it is; its tensors count as the
GPU's. Each distinct slice of which nothing is stored is measured there and recorded at once.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import fx

from tile_backend import inductor, pipeline, registry
from tile_backend.inductor_alone import InductorAlone
from tile_backend.lowering import choice, device, gate, site_kernels
from tile_backend.lowering.choice import Means, Question
from tile_backend.lowering.measure import Measuring
from tile_backend.lowering.node import hint, value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.progress import track
from tile_backend.options import Options
from tile_backend.report_text import aligned, plural

if TYPE_CHECKING:
    from tile_backend.lowering.analysis import Analysis
    from tile_backend.lowering.device import Gpu
    from tile_backend.lowering.evidence import Choice
    from tile_backend.targets import Target
    from tile_backend.tuning_measure import Bench

Status = Literal["measured", "stored", "not measured"]


@dataclasses.dataclass(frozen=True)
class SliceRow:
    """What became of a slice. kind, sizes: of what. count: how often it is in the model.

    result: the evidence in words.
    """

    status: Status
    kind: str
    sizes: Mapping[str, int]
    count: int
    chosen: str
    result: str

    @property
    def title(self) -> str:
        """Kind and sizes."""
        sizes = ",".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"{self.kind} {sizes}"


def measure(
    target: Target,
    bench: Bench,
    again: bool,
    dynamic: bool,
    training: bool,
    rows: list[SliceRow],
) -> None:
    """Add a row for each distinct slice as it is done, so that an interrupt loses none.

    bench: where. again: measure what is stored as well. training: forward and backward of what
    needs a gradient.
    """
    gpu = figures(bench)
    visit = functools.partial(fill, rows, bench, again)
    with (
        torch.set_grad_enabled(training),
        device.simulated(gpu, exists=bench.device != "cpu"),
    ):
        inductor.capture(
            inductor.original(target.function), target.args, target.kwargs, visit, dynamic or None
        )


def lines_of_slices(rows: Sequence[SliceRow]) -> Iterator[str]:
    """Their totals, and a line for each."""
    counts = collections.Counter(row.status for row in rows)
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    yield f"{len(rows)} slice{plural(len(rows))}, {parts}"
    cells = ((r.status, f"x{r.count}", r.title, f"{r.chosen}: {r.result}") for r in rows)
    yield from aligned(list(cells))


def figures(bench: Bench) -> Gpu:
    """Of the GPU that is measured on; of a made-up one those that are assumed."""
    on = torch.device(bench.device)
    if on.type == "cuda":
        return device.described(torch.cuda.current_device())
    return dataclasses.replace(device.ASSUMED, name=bench.gpu, assumed=False)


def fill(rows: list[SliceRow], bench: Bench, again: bool, module: fx.GraphModule) -> None:
    """Inside the capture: a row for each distinct slice."""
    options, _ = Options.parse(None, environ={}, known=registry.names)
    found = pipeline.analyse(module, options)
    on = torch.device(bench.device)
    measuring = Measuring(
        InductorAlone(None, {}), whole_numbers(module), bench.clock, bench.driver, on
    )
    means = Means(measuring=measuring, again=again)
    for question, count in track(asked(found, means), "slices"):
        rows.append(row(question, question.answer(), count))


def asked(found: Analysis, means: Means) -> list[tuple[Question, int]]:
    """Every distinct slice, and how often it is there."""
    result: list[tuple[Question, int]] = []
    for graph in found.nesting.effects:
        candidates = [
            origin
            for origin in found.origins
            if isinstance(origin, Candidate)
            and origin.reason is None
            and origin.call is not None
            and origin.root.graph is graph
        ]
        able = [c for c in candidates if c.call is not None and gate.able(c.call)]
        if able:
            usable = site_kernels.with_code(able)
            pairs = choice.questions(candidates, usable, found.nesting, means)
            result += [(question, len(alike)) for question, alike in pairs]
    return result


def row(question: Question, answer: Choice, count: int) -> SliceRow:
    """In words."""
    status: Status = "not measured"
    text = answer.note
    if answer.measurement is not None:
        status = "measured" if answer.basis == "measured" else "stored"
        text = answer.measurement.sentence() + answer.note
    kind = question.kind
    return SliceRow(status, kind.text, dict(kind.sizes), count, answer.way, text)


def whole_numbers(module: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    """Ones for inputs that are no floats, which a model on meta has no values of.

    As a mask of padding they hide nothing, as labels and positions they occur.
    """
    found = {}
    for node in module.graph.find_nodes(op="placeholder"):
        fake = value(node)
        if isinstance(fake, torch.Tensor) and not fake.dtype.is_floating_point:
            sizes = [hint(size) for size in fake.shape]
            found[node] = torch.ones(sizes, dtype=fake.dtype)
    return found
