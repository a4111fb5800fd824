"""Which configurations of a launch are worth a GPU's time: judged by their code, without a GPU.

Each is compiled into the kernel store, several at a time. Left out, with a reason, is one that does
not fit the launch, does not compile, spills registers, keeps too few warps on a multiprocessor to
hide the latency of memory, or compiles to the same code as another. A configuration is never
held to more than the plan's own is, and that one is never left out for its resources.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tile_backend.lowering import cubin_code, kernel_code, launch_recipe
from tile_backend.lowering.kernel_code import Code
from tile_backend.lowering.kernels.configuration import Choose, Configuration, Named, everything
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.launch_recipe import Recipe, describe
from tile_backend.lowering.reason import ReasonKind

if TYPE_CHECKING:
    from tile_backend.lowering.kernels.inspection import Resources

INSPECTIONS = 4
"""At a time; each is two short processes."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A launch to find a configuration for.

    names: of the op's arguments. values: these and the outputs (None: unread), tensors on meta.
    """

    op: str
    names: tuple[str, ...]
    values: tuple[Any, ...]
    arch: str

    def recipe(self, choose: Choose) -> Recipe | None:
        """The launch so configured; None where there is nothing to compute. Raises KernelLimit."""
        return launch_recipe.made(self.op, self.names, describe(self.values), self.arch, choose)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration that may be launched. configuration: what the plan chooses, or another."""

    configuration: Configuration
    recipe: Recipe
    code: Code

    @property
    def text(self) -> str:
        return str(self.configuration)


@dataclasses.dataclass(frozen=True)
class Pruned:
    """kept: the plan's own first; none where that one cannot be had. left_out: text -> reason.

    unjudged: why nothing was left out for its resources, or "". absent: why some were left out that
    another machine could compile, or "".
    """

    kept: tuple[Candidate, ...]
    left_out: Mapping[str, str]
    unjudged: str = ""
    absent: str = ""

    def left_out_for(self) -> collections.Counter[str]:
        """How many were left out for what: {"spill registers": 12, "do not compile": 3}."""
        return collections.Counter(reason.split(":")[0] for reason in self.left_out.values())

    def summary(self) -> str:
        """The same as text: "12 spill registers, 3 do not compile"."""
        counts = self.left_out_for().most_common()
        return ", ".join(f"{count} {reason}" for reason, count in counts)


def pruned(call: Call) -> Pruned:
    """The configurations of a launch. Raises KernelLimit, NoKernelError."""
    left_out: dict[str, str] = {}
    candidates = list(planned(call, left_out))
    missing = kernel_code.missing({c.code for c in candidates}, compiles=True)
    left_out |= {
        c.text: f"do not compile: {missing[c.code].text}" for c in candidates if c.code in missing
    }
    absent = next((p for p in missing.values() if p.kind is ReasonKind.MISSING_DEPENDENCY), None)
    if absent is not None:
        return Pruned((), left_out, absent=str(absent))
    built = [c for c in candidates if c.code not in missing]
    if not built or built[0] is not candidates[0]:
        return Pruned((), left_out)
    found, unjudged = resources_of(built)
    if unjudged:
        return Pruned(tuple(built), left_out, unjudged)
    kept: list[Candidate] = []
    seen: dict[Any, str] = {}
    for candidate in built:
        resources = found[candidate.code]
        reason = against(candidate, resources, found[built[0].code])
        other = seen.setdefault(running(candidate, resources), candidate.text)
        if other != candidate.text:
            reason = f"are the same code as another: {other}"
        if reason:
            left_out[candidate.text] = reason
        else:
            kept.append(candidate)
    return Pruned(tuple(kept), left_out)


def planned(call: Call, left_out: dict[str, str]) -> Iterator[Candidate]:
    """Everything that the plan can choose from, as launches."""
    signature = importlib.import_module("tile_backend.lowering.kernels.signature")
    for index, configuration in enumerate(everything(call.recipe)):
        try:
            recipe = call.recipe(Named(str(configuration)))
        except KernelLimit as limit:
            if not index:
                raise
            left_out[str(configuration)] = f"do not fit the launch: {limit}"
            continue
        if recipe is not None:
            given = signature.signature_for(recipe.kernel, recipe.arguments(call.values))
            yield Candidate(configuration, recipe, recipe.kernel.code(given, call.arch))


def running(candidate: Candidate, resources: Resources) -> Any:
    """What a launch does: equal for launches that hints and notes alone tell apart."""
    image = candidate.code.kernel.lookup(candidate.code.key).image
    passed = tuple(p for p in candidate.recipe.parameters if not isinstance(p, int))
    return cubin_code.machine_code(image), resources.usage, candidate.recipe.grid, passed


def resources_of(built: Sequence[Candidate]) -> tuple[dict[Code, Resources], str]:
    """What the code of each takes of a multiprocessor; else why that cannot be told."""
    inspection = importlib.import_module("tile_backend.lowering.kernels.inspection")

    def inspected(candidate: Candidate) -> Resources:
        found: Resources = inspection.resources_of(candidate.code.kernel, candidate.code)
        return found

    try:
        with ThreadPoolExecutor(INSPECTIONS) as pool:
            found = list(pool.map(inspected, built))
    except inspection.InspectionError as error:
        return {}, str(error)
    return {c.code: resources for c, resources in zip(built, found, strict=True)}, ""


def against(candidate: Candidate, found: Resources, own: Resources) -> str:
    """Why a candidate is left out, given the resources of the plan's own; "" where it is not."""
    if found.usage.local > own.usage.local:
        return f"spill registers: {found.usage.local} bytes a thread"
    if found.blocks == 0:
        return "do not fit a multiprocessor: no block of it does"
    if found.blocks is None or own.blocks is None or found.most_warps is None:
        return ""
    warps, planned = found.blocks * found.warps, own.blocks * own.warps
    enough = min(found.most_warps // 2, planned) if candidate.configuration.streams else 0
    return f"keep too few warps resident: {warps}, not {enough}" if warps < enough else ""
