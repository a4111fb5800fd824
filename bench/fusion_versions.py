"""Ways to compute a fusion: what `bench.fusions` times against each other.

Each maker gives a function of the case's inputs, or raises: then its message is in the result.
On a GPU `tilegym` runs its kernels whatever the gate would choose, and falls back nowhere; `auto`
is what the gate chooses. Peers are called as their users call them, where they are installed.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from bench import training_programs
from bench.fusion_cases import Case
from bench.training_programs import EPSILON, IGNORED, Function
from bench.versions import UnavailableError
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import Verdict, within_budget

Maker = Callable[[Case], Function]
KERNELS = {"tilegym.kernels": "always", "tilegym.strict": "no-fallback"}
HUB = {"rms_norm": ("kernels-community/liger_kernels", "LigerRMSNorm")}
"""Of the kernels that Transformers takes from the hub, those that compute one of our fusions."""


def compiled(case: Case, backend: str, options: Mapping[str, str] | None = None) -> Function:
    """As a user compiles it."""
    return training_programs.compiled(case.program, backend, options)


def max_autotune(case: Case) -> Function:
    """Inductor, trying everything it has."""
    made: Function = torch.compile(
        case.program.function, mode="max-autotune-no-cudagraphs", dynamic=False
    )
    return made


def eager(case: Case) -> Function:
    """As it is."""
    return case.program.function


# --- torch's own ----------------------------------------------------------------------------------


TORCH: Mapping[str, Function] = {
    "rms_norm": lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, EPSILON),
    "layer_norm": lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, EPSILON),
    "softmax": lambda x: F.softmax(x, dim=-1),
    "cross_entropy": lambda logits, labels: F.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED
    ),
}
"""By fusion."""


def of_torch(case: Case) -> Function:
    """torch's fused op, called eagerly. Raises UnavailableError."""
    if case.fusion not in TORCH:
        raise UnavailableError("torch has no op for this fusion")
    return TORCH[case.fusion]


# --- peers ----------------------------------------------------------------------------------------


TILEGYM: Mapping[str, Callable[[Any, Any], Function]] = {
    "rms_norm": lambda ops, _: lambda x, w: ops.rms_norm(x, x.shape[-1:], w, EPSILON),
    "add_rms_norm": lambda _, liger: lambda x, r, w: liger.fused_add_rms_norm(x, r, w, EPSILON),
    "layer_norm": lambda ops, _: (
        lambda x, w, b: ops.persistent_layer_norm(x, x.shape[-1:], w, b, EPSILON)[0]
    ),
    "silu_mul": lambda ops, _: ops.get_swiglu(),
    "gelu_mul": lambda _, liger: lambda gate, up: liger.geglu(gate, up),
    # It rotates in place; its own bench times these copies as well.
    "rotary": lambda ops, _: lambda q, k, c, s: ops.apply_rope_base(q.clone(), k.clone(), c, s),
    "softmax": lambda ops, _: ops.softmax,
    "cross_entropy": lambda _, liger: liger.cross_entropy,
    "linear_cross_entropy": lambda _, liger: liger.fused_linear_cross_entropy,
}
"""By fusion: from `tilegym.ops` and `tilegym.suites.liger` to a function of the same tensors."""


def by_tilegym(case: Case) -> Function:
    """Raises UnavailableError."""
    try:
        ops = importlib.import_module("tilegym.ops")
        suite = importlib.import_module("tilegym.suites.liger")
        if case.fusion in TILEGYM:
            return TILEGYM[case.fusion](ops, suite)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise UnavailableError(f"TileGym cannot be used: {error}") from error
    raise UnavailableError("TileGym has no such op")


def by_liger(case: Case) -> Function:
    """Raises UnavailableError."""
    return training_programs.by_liger(case.program)


def by_hub(case: Case) -> Function:
    """A kernel of Hugging Face's hub, from its cache unless downloads are allowed (`--hub`).

    Raises UnavailableError.
    """
    if case.fusion not in HUB:
        raise UnavailableError("no kernel of the hub computes this fusion")
    repository, layer = HUB[case.fusion]
    try:
        package = importlib.import_module("kernels").get_kernel(repository)
        forward = getattr(package.layers, layer).forward
    except Exception as error:  # whatever a hub that is not there raises
        raise UnavailableError(f"{repository} cannot be had: {error}") from error

    class Norm(torch.nn.Module):
        variance_epsilon = EPSILON
        offset, casting_mode, in_place = 0.0, "llama", False

    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        module = Norm()
        module.weight = torch.nn.Parameter(weight, requires_grad=weight.requires_grad)
        result: torch.Tensor = forward(module, x)
        return result

    return run


def makers(device: str) -> dict[str, Maker]:
    """By name."""
    if device == "cpu":
        return {
            "tilegym": functools.partial(compiled, backend="tilegym"),
            "inductor": functools.partial(compiled, backend="inductor"),
            "eager": eager,
            "torch": of_torch,
        }
    return {
        "tilegym": functools.partial(compiled, backend="tilegym", options=KERNELS),
        "auto": functools.partial(compiled, backend="tilegym"),
        "inductor": functools.partial(compiled, backend="inductor"),
        "inductor max-autotune": max_autotune,
        "eager": eager,
        "torch": of_torch,
        "TileGym": by_tilegym,
        "Liger": by_liger,
        "hub": by_hub,
    }


NEED_A_GPU = ("auto", "inductor max-autotune", "TileGym", "Liger", "hub")
"""What a CPU has not."""


# --- correctness ----------------------------------------------------------------------------------


def outcome(
    case: Case, function: Function, inputs: list[torch.Tensor], slopes: list[torch.Tensor]
) -> list[torch.Tensor]:
    """One step: results, in a training step also gradients."""
    if case.train:
        return training_programs.outcome(function, inputs, slopes)
    with torch.no_grad():
        return training_programs.results_of(function(*inputs))


def slopes_of(case: Case, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients of the results, the same each time; none for a forward step."""
    torch.manual_seed(1)
    return training_programs.slopes_of(case.program, inputs) if case.train else []


def judge(case: Case, device: str) -> Callable[[list[torch.Tensor]], Verdict]:
    """What holds an outcome against float64, within the budget of the program uncompiled."""
    inputs = case.inputs(device)
    slopes = slopes_of(case, inputs)
    original = outcome(case, case.program.function, inputs, slopes)
    exact = oracle.float64(outcome)(case, case.program.function, inputs, slopes)
    return lambda results: within_budget(results, exact, original)
