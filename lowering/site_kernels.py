"""The code of the kernels that a graph will launch, made before anything runs.

`settle` takes the gate's verdicts and sees to it that every kernel is there, from the store or from
the compiler. A site whose kernel cannot be had becomes a fallback with the reason; one whose kernel
lacks some sizes that the graph allows keeps it, and says which. `prepare` does the same for the
launches as Inductor wrote them: it may lay tensors out in another way than the captured graph.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering import (
    composition,
    device,
    dynamic_sizes,
    failure,
    gate,
    kernel_code,
    launch_recipe,
)
from tile_backend.lowering.gate import Verdict
from tile_backend.lowering.kernel_code import Code
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.launch_configuration import Measured
from tile_backend.lowering.launch_recipe import NoKernelError, describe, recipe
from tile_backend.lowering.legality import Call
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site import Decision
from tile_backend.lowering.tensor_layout import Layout, Trial


@dataclasses.dataclass(frozen=True)
class LaunchSite:
    """One launch of a graph. Equal for the launches of identical layers.

    values: arguments and outputs of the op; tensors as layouts.
    place: where in the model it is, for messages. environment: the ShapeEnv of the graph.
    """

    op: str
    names: tuple[str, ...]
    values: tuple[Any, ...]
    arch: str
    place: str = dataclasses.field(default="", compare=False)
    environment: Any = dataclasses.field(default=None, compare=False)

    @classmethod
    def all_of(cls, call: Call) -> tuple[LaunchSite, ...]:
        """Of an op, or its steps, that is to be put into a captured graph."""
        return tuple(map(cls.of, call.launched))

    @classmethod
    def of(cls, call: Call) -> LaunchSite:
        """Of one launch. An output nobody reads is None."""
        read = call.read if any(call.read) else (True,) * len(call.outputs)
        kept = (out if wanted else None for out, wanted in zip(call.outputs, read, strict=True))
        values = (*call.arguments.values(), *kept)
        laid_out = tuple(Layout.of(v) if isinstance(v, torch.Tensor) else v for v in values)
        environments = (
            d.node.shape_env
            for v in values
            if isinstance(v, torch.Tensor)
            for d in (*v.shape, *v.stride())
            if isinstance(d, torch.SymInt)
        )
        arch = gate.architecture(gate.device_of(call))
        names = tuple(call.arguments)
        return cls(call.op.name, names, laid_out, arch, environment=next(environments, None))


@dataclasses.dataclass(frozen=True)
class Need:
    """What a launch needs at some sizes: code, or nothing, or it is refused there.

    measured: the stored configuration that the code is of.
    """

    sizes: str
    code: Code | None = None
    refusal: Reason | None = None
    measured: Measured | None = None

    def problem(self, missing: Mapping[Code, Reason]) -> Reason | None:
        """Why the kernel does not run at these sizes."""
        return self.refusal or (missing.get(self.code) if self.code is not None else None)


def settle(
    calls: Sequence[Call], verdicts: Sequence[Verdict | Reason], kernels: str, compiles: bool
) -> list[Verdict | Reason]:
    """The verdicts with what is known of the kernels' code; in the order of `calls`.

    kernels: the option tilegym.kernels. compiles: this is a compile, not an explanation.
    A Reason stands for a call of which something failed.
    """
    wanted = [
        failure.tried("listing its launches", None, LaunchSite.all_of, call)
        if isinstance(verdict, Verdict) and verdict.decision == "kernel"
        else ()
        for call, verdict in zip(calls, verdicts, strict=True)
    ]
    if device.is_made_up() or any(
        gate.capability_of(gate.device_of(call).index or 0) is None for call in calls
    ):
        compiles = False  # no GPU that would run anything
    listed = [site for sites in wanted if not isinstance(sites, Reason) for site in sites]
    found = problems(listed, compiles)

    def judge(
        verdict: Verdict | Reason, sites: tuple[LaunchSite, ...] | Reason
    ) -> Verdict | Reason:
        if isinstance(verdict, Reason):
            return verdict
        if isinstance(sites, Reason):
            return sites
        return judged(verdict, [problem for site in sites for problem in found[site]], kernels)

    return [judge(verdict, sites) for sites, verdict in zip(wanted, verdicts, strict=True)]


def prepare(sites: Sequence[LaunchSite]) -> list[tuple[LaunchSite, Reason]]:
    """Compile what the launches need; the first reason for each that will not do at some size."""
    found = problems(sites, compiles=True)
    return [(site, why[0][1]) for site in sites if (why := found[site])]


Problems = list[tuple[str, Reason]]
"""Sizes in words, "" for those captured, and why the kernel does not run there."""


def problems(sites: Sequence[LaunchSite], compiles: bool) -> dict[LaunchSite, Problems]:
    """What is in the way of each launch. compiles: make the code, or only look whether it can."""
    needs = {site: list(needs_of(site)) for site in dict.fromkeys(sites)}
    codes = {need.code for found in needs.values() for need in found if need.code is not None}
    missing = kernel_code.missing(codes, compiles)
    if rejected := without_code(needs, missing):
        for measured, reason in rejected.items():
            launch_recipe.reject(measured, reason.text)
        return problems(sites, compiles)
    return {
        site: [
            ("" if need.sizes == found[0].sizes else need.sizes, problem)
            for need in found
            if (problem := need.problem(missing)) is not None
        ]
        for site, found in needs.items()
    }


def without_code(
    needs: Mapping[LaunchSite, Sequence[Need]], missing: Mapping[Code, Reason]
) -> dict[Measured, Reason]:
    """The stored configurations whose code cannot be had, and why."""
    return {
        need.measured: missing[need.code]
        for found in needs.values()
        for need in found
        if need.measured is not None and need.code is not None and need.code in missing
    }


def needs_of(site: LaunchSite, fallbacks: bool = False) -> Iterator[Need]:
    """What the launch needs at the captured sizes, then at others that the graph allows.

    fallbacks: and where a measured configuration is taken, what the launch needs without it.
    """
    layouts = [value for value in site.values if isinstance(value, Layout)]
    what = f"planning the kernel of {site.op}"
    trials = failure.tried(what, None, dynamic_sizes.trials, layouts, site.environment)
    if isinstance(trials, Reason):
        yield Need("", refusal=trials)
        return
    for trial in trials:
        sizes = dynamic_sizes.described(trial)
        needs = failure.tried(what, None, needs_at, site, trial, sizes, fallbacks)
        yield from [Need(sizes, refusal=needs)] if isinstance(needs, Reason) else needs


def needs_at(site: LaunchSite, trial: Trial, sizes: str, fallbacks: bool) -> list[Need]:
    """The same at one set of sizes."""
    needs: list[Need] = []
    kernels = importlib.import_module("tile_backend.lowering.kernels.signature")
    values = [v.on_meta(trial) if isinstance(v, Layout) else v for v in site.values]
    for op, names, given in composition.called(site.op, site.names, values):
        try:
            found = recipe(op, names, describe(given), site.arch)
        except KernelLimit as limit:
            needs.append(Need(sizes, refusal=limit.reason))
            continue
        except NoKernelError as error:
            needs.append(Need(sizes, refusal=Reason(ReasonKind.MISSING_KERNEL, str(error))))
            continue
        if found is None:
            needs.append(Need(sizes))
            continue
        recipes = [found]
        if fallbacks and found.measured is not None:
            recipes.append(launch_recipe.planned(op, names, describe(given), site.arch))
        for each in recipes:
            signature = kernels.signature_for(each.kernel, each.arguments(given))
            code = each.kernel.code(signature, site.arch)
            needs.append(Need(sizes, code, measured=each.measured))
    return needs


def judged(verdict: Verdict, found: Problems, kernels: str) -> Verdict | Reason:
    """The verdict on one site; or what failed, at the sizes of the capture."""
    if not found:
        return verdict
    sizes, problem = next((first for first in found if not first[0]), found[0])
    if not sizes and problem.kind is ReasonKind.INTERNAL_FAILURE:
        return problem
    if not sizes:
        put_in = kernels == "always"
        chosen = Decision("reference", problem.text, put_in, basis="limit")
        return Verdict(chosen, put_in, fallback=problem)
    text = f"at {sizes} the reference runs: {problem.text}"
    return dataclasses.replace(verdict, fallback=Reason(problem.kind, text, fix=problem.fix))


def with_code(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose kernels are compiled, or can be where no GPU is there to compile them for."""
    what = "listing its launches"
    listed = [
        (c, failure.tried(what, c.root, LaunchSite.all_of, c.call))
        for c in candidates
        if c.call is not None
    ]
    sites = [(c, some) for c, some in listed if not isinstance(some, Reason)]
    compiles = not device.is_made_up() and torch.cuda.is_available()
    found = problems([site for _, some in sites for site in some], compiles)
    return [c for c, some in sites if all(sizes for site in some for sizes, _ in found[site])]
