"""The last stage: the op on random inputs of the site's shapes, against float64, and timed."""

from __future__ import annotations

import warnings

import torch

from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.site import OpCall, TensorSpec
from tile_backend.repro import Case, tensor
from tile_backend.tour_stage import Artefact, Stage, sentences

TITLE = "Running it"
LARGEST = 1 << 20
"""Elements of the arguments: more would take the interpreter minutes."""
NOT_MEASURED = "not measured: no GPU"


def run(call: OpCall, missing: str = "") -> Stage:
    """Interprets the kernel on a CPU, or launches it on a GPU, and compares.

    missing: why there is no kernel to run, or "".
    """
    says = sentences(
        "Is it right? The op runs on random tensors of the site's shapes, strides and dtypes."
        " So does the op's reference, plain PyTorch, once as it is and once in float64. The op may"
        " be at most twice as wrong as that, and one rounding step of the result's dtype: this is"
        " its budget, and nobody has picked a tolerance.",
        ""
        if torch.cuda.is_available()
        else "Without a GPU the kernel's Tile IR is run by an interpreter: the real kernel, and the"
        " real numbers, but no real time.",
    )
    if missing:
        return Stage("run", TITLE, says, (), f"Nothing to compare here. {missing}")
    text, missing = checked(call)
    artefacts = [Artefact("error against float64", text)] if text else []
    artefacts.append(Artefact("time", timed(call)))
    return Stage("run", TITLE, says, tuple(artefacts), missing)


def case(call: OpCall) -> Case:
    """The call on random tensors, on a GPU where there is one."""

    def given(value: object) -> object:
        if not isinstance(value, TensorSpec):
            return value
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return tensor(value.example_shape, value.example_stride, value.dtype, device)

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        arguments = {name: given(value) for name, value in call.arguments.items()}
    return Case(call.op, arguments, interpreted=not torch.cuda.is_available())


def size(call: OpCall) -> int:
    """Elements of the largest argument."""
    specs = [v for v in call.arguments.values() if isinstance(v, TensorSpec)]
    return max((torch.Size(spec.example_shape).numel() for spec in specs), default=0)


def checked(call: OpCall) -> tuple[str, str]:
    """The verdict in figures, or why there is none."""
    if not torch.cuda.is_available() and size(call) > LARGEST:
        return "", f"Not run: an argument has over {LARGEST} elements, too many to interpret."
    try:
        with warnings.catch_warnings():  # an op that runs its reference would be compared with it
            warnings.simplefilter("error", KernelFallbackWarning)
            return sentence(case(call).check()), ""
    except (AssertionError, KernelFallbackWarning) as error:
        return "", f"It did not run, or not right: {error}."


def sentence(verdict: str) -> str:
    """One output a line."""
    op, _, outputs = verdict.partition(": ")
    return "\n".join([op, *(f"  {output}" for output in outputs.split("; "))])


def timed(call: OpCall) -> str:
    """Medians of a call of the op and of its reference, on a GPU only."""
    if not torch.cuda.is_available():
        return NOT_MEASURED
    return case(call).bench()
