"""Stage 9: the cuTile kernels behind the op: source, launch plan, Tile IR, resources."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from tile_backend.lowering import composition, gate
from tile_backend.lowering.launch_recipe import NoKernelError, Recipe, View, describe, recipe
from tile_backend.lowering.legality import Call
from tile_backend.report_text import aligned
from tile_backend.tour_match import source_of
from tile_backend.tour_stage import LINES, Artefact, Stage, sentences

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
INSTALL = "pip install 'tile-backend[kernels]'"


@dataclasses.dataclass(frozen=True)
class Planned:
    """One launch: the kernel, and the values that it gets, tensors on meta."""

    op: str
    recipe: Recipe
    values: tuple[Any, ...]
    names: tuple[str, ...]

    @property
    def function(self) -> Any:
        return self.recipe.kernel._pyfunc

    @property
    def signature(self) -> Any:
        signatures = importlib.import_module("tile_backend.lowering.kernels.signature")
        return signatures.signature_for(self.recipe.kernel, self.recipe.arguments(self.values))


def kernel(call: Call) -> tuple[Stage, ...]:
    """The kernel's source and plan; its Tile IR; its resources. For this GPU, else for sm_90."""
    arch = gate.architecture(gate.device_of(call))
    if not gate.has_cutile():
        missing = (
            f"The package cuda-tile is not installed, so there is no kernel to show: {INSTALL}."
        )
        return (Stage("kernel", "The kernel", SAYS, (), missing),)
    limits = importlib.import_module("tile_backend.lowering.kernels.launch_plan").KernelLimit
    try:
        found = tuple(planned(call, arch))
    except (limits, NoKernelError) as error:
        text = f"There is none for this call, so the op runs its PyTorch reference: {error}."
        return (Stage("kernel", "The kernel", SAYS, (), text),)
    if not found:
        text = "There is nothing to compute here: no kernel is launched."
        return (Stage("kernel", "The kernel", SAYS, (), text),)
    return written(found, arch), tile_ir(found, arch), resources(found, arch)


def planned(call: Call, arch: str) -> Iterator[Planned]:
    """The launches of a call, each kernel once, in order."""
    seen = set()
    for launched in call.launched:
        values = [gate.example(v) for v in (*launched.arguments.values(), *launched.outputs)]
        for op, names, given in composition.called(
            launched.op.name, tuple(launched.arguments), values
        ):
            found = recipe(op, names, describe(given), arch)
            if found is not None and (op, found.kernel.name) not in seen:
                seen.add((op, found.kernel.name))
                yield Planned(op, found, tuple(given), names)


def written(found: Sequence[Planned], arch: str) -> Stage:
    """Source and launch plan."""
    artefacts = [
        Artefact(f"the kernel {each.recipe.kernel.name}", source_of(each.function), "python")
        for each in found
    ]
    helpers = inlined(found[0])
    if helpers:
        name = found[0].recipe.kernel.name
        artefacts.append(Artefact(f"what is inlined into {name}", helpers, "python"))
    for each in found:
        text = "\n".join(aligned(list(plan_of(each)), 88))
        artefacts.append(Artefact(f"the launch of {each.recipe.kernel.name} on {arch}", text))
    says = sentences(
        SAYS,
        f"The op launches {len(found)} of them." if len(found) > 1 else "",
        "How many blocks there are, how large a tile is and what the compiler is told follows from"
        " shapes, strides and dtypes alone: the launch plan.",
    )
    return Stage("kernel", "The kernel", says, tuple(artefacts))


def inlined(each: Planned) -> str:
    """The functions of ours that the kernel calls, one after another."""
    sources = importlib.import_module("tile_backend.lowering.kernels.kernel_source")
    own = inspect.getsource(each.function)
    parts = sources.parts(each.function)
    texts = [
        t for n, t in sorted(parts.items()) if t.lstrip().startswith(("def ", "@")) and t != own
    ]
    return "\n\n".join(text.rstrip() for text in texts)


def plan_of(each: Planned) -> Iterator[tuple[str, str]]:
    """Grid, hints, and each parameter of the kernel with what it gets."""
    yield "grid", f"{' x '.join(map(str, each.recipe.grid))} blocks"
    for name, hint in each.recipe.kernel._hints.items():
        yield f"hint {name}", str(hint)
    parameters = inspect.signature(each.function).parameters
    absent = {name for name, value in zip(each.names, each.values, strict=False) if value is None}
    for name, given in zip(parameters, each.recipe.parameters, strict=True):
        shown = seen(each, given) if isinstance(given, View) else repr(given)
        yield name, f"absent: {shown} stands in" if name in absent else shown


def seen(each: Planned, view: View) -> str:
    """`x, seen as bfloat16[32, 64]`; a result of the op is `result 0`."""
    count = len(each.names)
    source = view.source
    name = each.names[source] if source < count else f"result {source - count}"
    kind = f"{str(view.dtype).removeprefix('torch.')}[{', '.join(map(str, view.shape))}]"
    return f"{name}, {kind}" if view.same else f"{name}, seen as {kind}"


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
    artefact = Artefact(f"Tile IR of {first.recipe.kernel.name}", text, "text", matters(text))
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
        each.recipe.kernel.name,
        str(usage.threads),
        str(usage.registers),
        f"{usage.local} B",
        f"{usage.shared / 1024:.1f} KiB",
        share,
    )
