"""Stage 9: the cuTile kernels behind the op: source, launch plan, Tile IR, resources."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tile_backend.lowering import gate
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.launch_recipe import NoKernelError
from tile_backend.lowering.legality import Call
from tile_backend.report_text import aligned
from tile_backend.tour_launch import Planned, at_bench, constants, grid, parameters
from tile_backend.tour_match import source_of
from tile_backend.tour_stage import LINES, Artefact, Stage, sentences

TITLE = "The kernel"
SAYS = (
    "This is what the launch in the generated code runs: a function in cuTile, NVIDIA's Python for"
    " GPU kernels. It is written for one block, which handles one tile of the data; ct.bid says"
    " which. Loads and stores move whole tiles, arithmetic is on tiles, and the compiler decides"
    " about threads, registers and shared memory."
)
HEADER: tuple[str, ...] = (
    "kernel",
    "threads",
    "registers",
    "local",
    "shared memory",
    "blocks, warps at once",
)
INSTALL = "Install it: pip install 'tile-backend[kernels]'"


def kernel(
    call: Call, fusion: Fusion, arch: str, launches: Callable[[], tuple[Planned, ...]]
) -> tuple[Stage, ...]:
    """The kernels' source and plan; Tile IR; resources.

    launches: makes those of the site, and raises what a plan raises.
    """
    if not gate.has_cutile():
        missing = f"The package cuda-tile is not installed: there is no kernel to show. {INSTALL}."
        return (Stage("kernel", TITLE, SAYS, (), missing),)
    limits = importlib.import_module("tile_backend.lowering.kernels.launch_plan").KernelLimit
    try:
        found = launches()
    except (limits, NoKernelError) as error:
        text = f"There is none for this call, so the op runs its PyTorch reference: {error}."
        return (Stage("kernel", TITLE, SAYS, (), text),)
    if not found:
        text = "There is nothing to compute here: no kernel is launched."
        return (Stage("kernel", TITLE, SAYS, (), text),)
    shown = written(found, arch, list(bench(call, fusion, arch, limits)))
    return shown, tile_ir(found, arch), resources(found, arch)


def bench(
    call: Call, fusion: Fusion, arch: str, limits: type[Exception]
) -> Iterator[tuple[str, str, str]]:
    """How the first kernel is launched at the sizes of real models."""
    try:
        for name, each in at_bench(call, fusion.bench, arch):
            yield name, grid(each), constants(each)
    except limits as error:
        yield "refused", str(error), ""


def written(
    found: Sequence[Planned], arch: str, at_other_sizes: Sequence[tuple[str, str, str]]
) -> Stage:
    """Source and launch plan."""
    artefacts = [Artefact(f"the kernel {e.name}", source_of(e.function), "python") for e in found]
    helpers = inlined(found[0])
    if helpers:
        artefacts.append(Artefact(f"what is inlined into {found[0].name}", helpers, "python"))
    for each in found:
        hints = [(f"hint {name}", str(hint)) for name, hint in each.recipe.kernel._hints.items()]
        rows = [("grid", grid(each)), *hints, *parameters(each)]
        title = f"the launch of {each.name} on {arch}"
        artefacts.append(Artefact(title, "\n".join(aligned(rows, 88))))
    if at_other_sizes:
        text = "\n".join(line.rstrip() for line in aligned(at_other_sizes))
        artefacts.append(Artefact("the same at sizes of real models", text))
    says = sentences(
        SAYS,
        f"There are {len(found)} of them here." if len(found) > 1 else "",
        "How many blocks there are, how large a tile is and what the compiler is told follows from"
        " shapes, strides and dtypes alone: the launch plan.",
    )
    return Stage("kernel", TITLE, says, tuple(artefacts))


def inlined(each: Planned) -> str:
    """The functions of ours that the kernel calls, one after another."""
    sources = importlib.import_module("tile_backend.lowering.kernels.kernel_source")
    own = inspect.getsource(each.function)
    parts = sources.parts(each.function)
    texts = [
        t for n, t in sorted(parts.items()) if t.lstrip().startswith(("def ", "@")) and t != own
    ]
    return "\n\n".join(text.rstrip() for text in texts)


def inspection() -> Any:
    """The tools that need cuda-tile."""
    return importlib.import_module("tile_backend.lowering.kernels.inspection")


def tile_ir(found: Sequence[Planned], arch: str) -> Stage:
    """Of the first kernel."""
    says = (
        "cuda-tile's front end types the function for these arguments, inlines what it calls and"
        " writes Tile IR, the form in which NVIDIA's compiler takes tile programs. What the shapes"
        " decide is a constant by now; loads and stores are views of arrays cut into tiles."
    )
    tools, first = inspection(), found[0]
    try:
        text = tools.tile_ir(first.recipe.kernel, first.signature, arch)
    except tools.InspectionError as error:
        return Stage("tile-ir", "Tile IR", says, (), f"Not to be had here: {error}.")
    artefact = Artefact(f"Tile IR of {first.name}", text, "text", matters(text))
    return Stage("tile-ir", "Tile IR", says, (artefact,))


def matters(text: str) -> tuple[int, ...]:
    """The lines that are not about what may be assumed of the arguments, as many as fit."""
    noise = ("= assume ", "= constant ", "= make_token")
    lines = enumerate(text.split("\n"))
    return tuple(i for i, line in lines if not any(word in line for word in noise))[:LINES]


def resources(found: Sequence[Planned], arch: str) -> Stage:
    """Of every kernel, a line each."""
    says = (
        "tileiras compiles that to the machine code of one architecture, without a GPU. A"
        " multiprocessor runs many blocks at a time, as far as registers and shared memory go;"
        " the more warps, the better it hides that memory is slow. Bytes of local memory are"
        " registers that did not fit, and cost time. No time can be told from this table."
    )
    rows = [HEADER]
    tools = inspection()
    try:
        rows += [
            row(each, tools.resources(each.recipe.kernel, each.signature, arch)) for each in found
        ]
    except tools.InspectionError as error:
        return Stage("resources", "The compiled code", says, (), f"Not to be had here: {error}.")
    artefact = Artefact(f"per block on one multiprocessor of {arch}", "\n".join(aligned(rows)))
    return Stage("resources", "The compiled code", says, (artefact,))


def row(each: Planned, made: Any) -> tuple[str, ...]:
    """Its line, from inspection.Resources."""
    usage = made.usage
    share = "not known"
    if made.blocks is not None:
        warps = made.blocks * made.warps
        share = f"{made.blocks}, {warps} of {made.most_warps} ({100 * warps // made.most_warps} %)"
    return (
        each.name,
        str(usage.threads),
        str(usage.registers),
        f"{usage.local} B",
        f"{usage.shared / 1024:.1f} KiB",
        share,
    )
