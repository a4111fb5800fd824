"""Stage 8: AOTAutograd's graphs, Inductor's schedule and the code that it writes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import fx

from tile_backend import inductor, inductor_stages
from tile_backend.inductor_stages import Compiled
from tile_backend.lowering import inductor_ir, joint_graph
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.tour_stage import Artefact, Stage, between, sentences

FOLDERS = re.compile(r"File: \S*/(?=[^/\s]+:\d)")
HEAD = re.compile(
    r"op\w+(: |\.writes|\.unmet_dependencies|\.met_dependencies|\.snodes|\.node\.kernel = \w+\.)"
)
"""Lines of a schedule that say what runs."""
MOST_ATEN = 60
"""Lines of a graph in ATen."""
NEED = (
    "Inductor asks the machine's C++ compiler what it can do before it writes code for a CPU."
    " Install one (g++, python3-dev), and see `python -m tile_backend doctor`."
)


def compiled(
    module: fx.GraphModule, device: torch.device
) -> tuple[tuple[Stage, ...], list[LaunchSite]]:
    """Compile the rewritten graph up to its code, and say what the code launches.

    device: of the op.
    """
    passes = {"joint_custom_post_pass": joint_graph.JointGraphPass("tour")}
    launches: list[LaunchSite] = []
    try:
        with launching(device), inductor_ir.written_launches() as launches:
            parts = inductor_stages.watched(module, inductor.captured_inputs(), passes)
    except inductor.RESTART:
        raise
    except Exception as error:  # noqa: BLE001 - torch's own failures, whatever they are: shown
        text = f"torch stopped here: {type(error).__name__}: {str(error).splitlines()[0]}"
        stage = Stage("aten", "Inductor", "The graph goes to torch's Inductor.", (), text)
        return (stage,), launches
    return (aten(parts), schedule(parts), code(parts)), launches


@contextlib.contextmanager
def launching(device: torch.device) -> Iterator[None]:
    """On CPU tensors code is written as for a GPU, on CPU buffers."""
    if device.type == "cuda":
        yield
        return
    with inductor_ir.force_direct_launch():
        yield


def aten(parts: tuple[Compiled, ...]) -> Stage:
    """The graphs that AOTAutograd hands on."""
    says = sentences(
        "AOTAutograd, the middle of torch.compile, takes PyTorch's functions apart into primitive"
        " operations, called ATen, removes in-place writes, and where a gradient is wanted derives"
        " the backward and divides the work: what is not kept is computed again.",
        "An op of ours passes through as one line. F.silu, say, would be six by now.",
        "Its backward is a kernel as well where the op declares one." if len(parts) > 1 else "",
    )
    texts = {part.part: FOLDERS.sub("File: ", part.aten) for part in parts}
    artefacts = [
        Artefact(f"{part}, in ATen", text, "python", tuple(range(MOST_ATEN)))
        for part, text in texts.items()
    ]
    return Stage("aten", "AOTAutograd's graph", says, tuple(artefacts))


def schedule(parts: tuple[Compiled, ...]) -> Stage:
    """Inductor's nodes after fusion."""
    says = (
        "Inductor lowers each ATen operation to a loop over its elements, or to a call of something"
        " that is there already, and then its scheduler fuses loops that read what another one"
        " writes. op0, op1, ... run one after the other; reads and writes say why in this order."
        " Ours is an ExternKernel, a call: Inductor plans its buffers, and does not look inside."
    )
    artefacts = [
        Artefact(f"{part.part}: what runs, and what became one", part.schedule, "text", heads(part))
        for part in parts
        if part.schedule
    ]
    return Stage("schedule", "Inductor's schedule", says, tuple(artefacts), missing(parts))


def heads(part: Compiled) -> tuple[int, ...]:
    """What each node is, what it waits for and writes, and what it calls."""
    return tuple(i for i, line in enumerate(part.schedule.split("\n")) if HEAD.match(line))


def code(parts: tuple[Compiled, ...]) -> Stage:
    """The programs."""
    says = sentences(
        "The last thing that Inductor writes is this Python program; torch.compile calls it in the"
        " place of the model's function. It checks sizes, allocates buffers, runs its own loops"
        " (C++ here, Triton on a GPU) and calls ours.",
        "The line with _tg. is the launch: a direct call, past PyTorch's dispatcher, on the buffers"
        " that Inductor has planned. Above it stand the op, the module and the source line.",
    )
    artefacts = [
        Artefact(f"the code, {part.part}", part.code, "python", body(part.code))
        for part in parts
        if part.code
    ]
    return Stage("code", "The generated code", says, tuple(artefacts), missing(parts))


def body(text: str) -> tuple[int, ...] | None:
    """The import of our launcher, and the function that is called."""
    called = between(text, "def call(", "return (")
    if called is None:
        return None
    lines = text.split("\n")
    first = tuple(i for i, line in enumerate(lines) if line.startswith("import tile_backend"))
    noise = ("assert_size_stride", "assert_alignment", "args.clear()", "# Topologically")
    return (*first, *(i for i in called if not any(word in lines[i] for word in noise)))


def missing(parts: tuple[Compiled, ...]) -> str:
    """Why there is no code, and what to do; or ""."""
    failures = [f"{part.part}: {part.failure.splitlines()[0]}" for part in parts if part.failure]
    return f"Inductor wrote no code ({'; '.join(failures)}). {NEED}" if failures else ""
