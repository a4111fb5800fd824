"""Kernel or reference? It depends on the options, the device, what is installed and the evidence.

`decide` answers for one site. On a CPU the answer is always the reference: the original nodes stay
with Inductor and cost nothing. On a GPU it is what is wanted there by the evidence (choice), unless
the kernel cannot run.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util

import torch

from tile_backend.lowering import composition, meta, static_rule
from tile_backend.lowering import device as gpus
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.launch_recipe import NoKernelError, describe, recipe
from tile_backend.lowering.legality import Call
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site import Choice, Decision
from tile_backend.lowering.tuning_entry import INDUCTOR

MINIMUM_CAPABILITY = (8, 0)
ASSUMED_CAPABILITY = (9, 0)
"""For a graph captured on fake CUDA tensors, where there is no GPU to ask."""
ASSUMED_MULTIPROCESSORS = 132
"""There as well, and on a CPU."""


DROPPED = "what the model returns beside the result is dropped"
KEPT = "and what the model returns beside the result is kept"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """decision: what runs. put_in: the op goes into the graph.

    fallback: why a wanted kernel cannot run.
    """

    decision: Decision
    put_in: bool
    fallback: Reason | None = None


def leaves(call: Call, kernels: str) -> bool:
    """Whether the original ops stay, whatever the kernels take."""
    return kernels == "never" or (kernels == "auto" and not weighs(call, kernels))


def weighs(call: Call, kernels: str) -> bool:
    """Whether evidence decides."""
    return kernels == "auto" and gpus.of(device_of(call)) is not None


def decide(fusion: Fusion, call: Call, kernels: str, wanted: Decision | None = None) -> Verdict:
    """kernels: the option tilegym.kernels, "auto", "always", "never" or "interpret".

    wanted: what the evidence says, where evidence decides; by default what the static rule says of
    the call alone.
    """
    verdict = decided(fusion, call, kernels, wanted)
    if not call.drops:
        return verdict
    note = f"; {DROPPED if verdict.put_in else KEPT}"
    return dataclasses.replace(verdict, decision=verdict.decision.noting(note))


def decided(fusion: Fusion, call: Call, kernels: str, wanted: Decision | None) -> Verdict:
    """The verdict, whatever the model returns."""
    device = device_of(call)
    if kernels == "interpret":
        return interpreted(call, device)
    if kernels == "never":
        chosen = Decision("reference", 'tilegym.kernels is "never"', basis="option")
        return Verdict(chosen, put_in=False)
    if kernels == "auto" and not weighs(call, kernels):
        chosen = left_to_inductor(call, device)
        return Verdict(chosen, put_in=chosen.op_in_graph)
    if kernels == "always":
        wanted = Decision("kernel", 'tilegym.kernels is "always"', basis="option")
    elif wanted is None:
        wanted = alone(fusion, call)
    if wanted == "reference":
        return Verdict(wanted, put_in=False)
    missing = changing(call) or unavailable(device) or refused(call, device)
    if missing is not None:
        put_in = kernels == "always" and not call.open
        chosen = Decision("reference", missing.text, put_in, basis="limit")
        return Verdict(chosen, put_in, fallback=missing)
    return Verdict(wanted, put_in=True)


def alone(fusion: Fusion, call: Call) -> Decision:
    """What the static rule says of the call without its neighbours."""
    gpu = gpus.of(device_of(call))
    assert gpu is not None
    try:
        found = static_rule.of_call(fusion, call, gpu)
    except Exception as error:  # noqa: BLE001 - said, and the original ops stay
        found = static_rule.unknown(error)
    choice: Choice = "reference" if found.chosen == INDUCTOR else "kernel"
    return Decision(choice, found.text, basis="estimated")


def able(call: Call) -> bool:
    """Whether its kernels can run here, as far as that is known without their code."""
    device = device_of(call)
    return (changing(call) or unavailable(device) or refused(call, device)) is None


def interpreted(call: Call, device: torch.device) -> Verdict:
    """The kernel in the CPU interpreter, where it takes these tensors; else the original ops."""
    missing = changing(call) or not_interpreted(device) or refused(call, device)
    if missing is not None:
        chosen = Decision("reference", missing.text, basis="limit")
        return Verdict(chosen, put_in=False, fallback=missing)
    chosen = Decision("interpreted", 'tilegym.kernels is "interpret"', basis="option")
    return Verdict(chosen, put_in=True)


def refused(call: Call, device: torch.device) -> Reason | None:
    """Why a kernel does not take these dtypes, shapes and strides, as its plan says."""
    from tile_backend.lowering.kernels.launch_plan import KernelLimit

    calls = [
        called
        for launched in call.launched
        for called in composition.called(
            launched.op.name,
            tuple(launched.arguments),
            [meta.like(v) for v in (*launched.arguments.values(), *launched.outputs)],
        )
    ]
    for op, names, values in calls:
        try:
            recipe(op, names, describe(values), architecture(device))
        except KernelLimit as limit:
            return limit.reason
        except NoKernelError as error:
            return Reason(ReasonKind.MISSING_KERNEL, str(error))
    return None


def device_of(call: Call) -> torch.device:
    """Where the call runs."""
    return next(a.device for a in call.arguments.values() if isinstance(a, torch.Tensor))


def changing(call: Call) -> Reason | None:
    """An op is called with numbers that are fixed; to fix one of the program's would be a guard."""
    if not call.open:
        return None
    return Reason(
        ReasonKind.SCALAR_IS_TENSOR,
        f"{' and '.join(call.open)} may change from call to call, and an op takes fixed numbers",
        fix="set torch._dynamo.config.specialize_float to True, or leave dynamic=True out",
    )


def architecture(device: torch.device) -> str:
    """The GPU as compilers name it: "sm_90"."""
    if (made_up := gpus.simulation()) is not None:
        return made_up.arch
    major, minor = capability_of(device.index or 0) or ASSUMED_CAPABILITY
    return f"sm_{major}{minor}"


def multiprocessors(device: torch.device) -> int:
    """Of the GPU."""
    if (made_up := gpus.simulation()) is not None:
        return made_up.multiprocessors
    return (
        multiprocessors_of(device.index or 0) if device.type == "cuda" else ASSUMED_MULTIPROCESSORS
    )


def left_to_inductor(call: Call, device: torch.device) -> Decision:
    """The original ops; where a mask has been understood, on a CPU the same without it."""
    if call.respelled is not None and device.type == "cpu":
        said = "hides nothing" if call.mask == "none" else f"is {call.mask}"
        evidence = f"the mask {said}: {call.respelled.gain}"
        own = call.respelled.function is None
        if own and (missing := changing(call)) is not None:
            return Decision("reference", missing.text, basis="limit")
        return Decision("reference", evidence, op_in_graph=own, respelled=True, basis="device")
    evidence = f"on {device.type} the original ops are left to Inductor"
    return Decision("reference", evidence, basis="device")


def unavailable(device: torch.device) -> Reason | None:
    """Why no cuTile kernel can run on this device."""
    if gpus.of(device) is None:
        return Reason(
            ReasonKind.MISSING_KERNEL,
            f"no cuTile kernel runs on {device.type}",
            fix='leave tilegym.kernels at "auto"',
        )
    made_up = gpus.simulation()
    capability = made_up.capability if made_up else capability_of(device.index or 0)
    if capability is not None and capability < MINIMUM_CAPABILITY:
        return Reason(
            ReasonKind.MISSING_KERNEL,
            f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0",
        )
    return None if has_cutile() else no_cutile()


def not_interpreted(device: torch.device) -> Reason | None:
    """Why no kernel can be interpreted on this device."""
    if device.type != "cpu":
        return Reason(
            ReasonKind.MISSING_KERNEL,
            f"the interpreter runs kernels on CPU tensors only, and these are on {device}",
            fix='move model and inputs to the CPU, or leave tilegym.kernels at "auto"',
        )
    return None if has_cutile() else no_cutile()


def no_cutile() -> Reason:
    """The package that has the kernels' front end is not there."""
    return Reason(
        ReasonKind.MISSING_DEPENDENCY,
        "the package cuda-tile is not installed",
        fix='pip install "tile-backend[kernels]"',
    )


@functools.cache
def has_cutile() -> bool:
    return importlib.util.find_spec("cuda") is not None and (
        importlib.util.find_spec("cuda.tile") is not None
    )


@functools.cache
def capability_of(index: int) -> tuple[int, int] | None:
    """None where there is no GPU to ask (a graph captured on fake CUDA tensors)."""
    return torch.cuda.get_device_capability(index) if torch.cuda.is_available() else None


@functools.cache
def multiprocessors_of(index: int) -> int:
    if not torch.cuda.is_available():
        return ASSUMED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(index).multi_processor_count
