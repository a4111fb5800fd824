"""The compiled kernels that the check needs for an architecture, found without a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench import attention_programs, fusions, launch_overhead
from tests.gpu_kit import calls
from tests.gpu_kit.model_runs import RUNS
from tile_backend import precompile
from tile_backend.lowering import composition, launch_recipe, meta, reference, site_kernels
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_code import Code
from tile_backend.lowering.kernels.signature import signature_for
from tile_backend.targets import Target


def codes(arch: str) -> set[Code]:
    """Of all that `make gpu-check` launches."""
    by_call = {code for _, op, values in op_calls() for code in codes_of(op, values, arch)}
    return by_call.union(model_codes(arch), fusion_codes(arch))


def op_calls() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Title, op and arguments of the calls that are made one by one."""
    for call in calls.parity_calls():
        yield str(call), call.op, call.make()
    for name in calls.NORMS:
        yield name, "rms_norm", calls.norm_values(name)
    for case in launch_overhead.CASES:
        yield (
            case.title,
            case.op,
            launch_overhead.arguments_of(case, launch_overhead.tensors_of(case, "meta")),
        )


def codes_of(op: str, values: Mapping[str, Any], arch: str) -> Iterator[Code]:
    """What a call launches; nothing where there is nothing to compute. Raises KernelLimit."""
    declared = record(op)
    outputs = reference.as_tuple(declared.op.outputs(**values))
    given: tuple[Any, ...] = (*values.values(), *outputs)
    if declared.op.composed is not None:  # its parts lie as new tensors do
        given = tuple(meta.like(value) for value in given)
    for name, names, passed in composition.called(op, declared.signature.names, given):
        described = launch_recipe.describe(passed)
        found = launch_recipe.recipe(name, names, described, arch)
        recipes = [] if found is None else [found]
        if found is not None and found.measured is not None:  # that machine may not know of it
            recipes.append(launch_recipe.planned(name, names, described, arch))
        for each in recipes:
            yield each.kernel.code(signature_for(each.kernel, each.arguments(passed)), arch)


def code_of(op: str, values: Mapping[str, Any], arch: str) -> Code | None:
    """What a call of an op with a kernel launches; None where there is nothing to compute."""
    return next(codes_of(op, values, arch), None)


def model_codes(arch: str) -> Iterator[Code]:
    """Of the models that tests/test_models_gpu.py compiles. Raises ValueError for a refusal."""
    for run in RUNS:
        model = run.model()
        yield from target_codes(Target(run.name, model, (), run.inputs(model)), arch, run.dynamic)


def fusion_targets() -> Iterator[Target]:
    """The programs of the step `fusions`, without data."""
    cases, attending = fusions.chosen("*", quick=True, device="cuda")
    for case in cases:
        yield Target(case.title, case.program.function, tuple(case.program.inputs("meta")))
    for masked in attending:
        function = attention_programs.program(masked)
        yield Target(masked.title, function, tuple(masked.inputs("meta")))


def fusion_codes(arch: str) -> Iterator[Code]:
    """Of these programs. Raises ValueError for a refusal."""
    for target in fusion_targets():
        yield from target_codes(target, arch)


def target_codes(target: Target, arch: str, dynamic: bool = False) -> Iterator[Code]:
    """What a compiled program launches. Raises ValueError where a site has no kernel."""
    sites, stopped = precompile.sites_of(target, [arch], dynamic)
    if stopped:
        raise ValueError(f"{target.title}: its graph ends early: {stopped}")
    for site in sites:
        for need in site_kernels.needs_of(site, fallbacks=True):
            if need.refusal is not None:
                raise ValueError(f"{target.title}: {site.op} has no kernel: {need.refusal}")
            if need.code is not None:
                yield need.code
