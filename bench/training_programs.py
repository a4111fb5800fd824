"""One fusion each, forward and backward, as models write it: the first part of `bench.training`.

The shapes are those of Llama 3 8B, with as many tokens as a prompt of the second part; a CPU gets
fewer. Liger's functions for the same are called as Liger's users call them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from bench.versions import UnavailableError
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import Verdict, within_budget

Function = Callable[..., Any]
EPSILON = 1e-6
IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Program:
    """function: of tensors of these shapes. labels: names -> how many classes they choose from.
    heads: [B, H, S, D], which lie as [B, S, H, D]. frozen: those without a gradient.
    liger: from `liger_kernel.transformers.functional` to a function of the same tensors.
    """

    title: str
    function: Function
    shapes: Mapping[str, tuple[int, ...]]
    liger: Callable[[Any], Function] | None = None
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    heads: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    dtype: torch.dtype = torch.bfloat16

    def inputs(self, device: str) -> list[torch.Tensor]:
        """Random, the same each time; one label of seven is ignored."""
        torch.manual_seed(0)
        return [self.tensor(name, device) for name in self.shapes]

    def tensor(self, name: str, device: str) -> torch.Tensor:
        shape = list(self.shapes[name])
        if name in self.labels:
            labels = torch.randint(self.labels[name], shape, device=device)
            return labels.masked_fill(torch.rand(shape, device=device) < 1 / 7, IGNORED)
        if name in self.heads:
            shape[1:3] = shape[2:0:-1]
        made = torch.randn(shape, dtype=self.dtype, device=device)
        if name == "head":  # logits of size one
            made = made * shape[-1] ** -0.5
        made = made.transpose(1, 2) if name in self.heads else made
        return made.requires_grad_(name not in self.frozen)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """As Llama's."""
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return weight * unit.to(x.dtype)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """The end of a block and the start of the next: both results are used."""
    total = residual + x
    return rms_norm(total, weight), total


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPSILON)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's gate."""
    return F.silu(gate) * up


def gelu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """GeGLU's, as Gemma has it."""
    return F.gelu(gate, approximate="tanh") * up


def rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
    """As Transformers': by halves, one table for all heads."""

    def rotated(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat((-right, left), dim=-1) * sin[:, None]

    return rotated(q), rotated(k)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Over the last dimension."""
    return F.softmax(x, dim=-1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As Transformers': in float32, the mean over what is not ignored."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)


def linear_cross_entropy(
    hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The head of a language model and its loss."""
    return cross_entropy(F.linear(hidden, head), labels)


def programs(device: str) -> list[Program]:
    """All of them."""
    tokens, hidden, middle, classes = (8192, 4096, 14336, 128256)
    if device == "cpu":
        tokens, hidden, middle, classes = (1024, 1024, 3584, 32064)
    x, gain, gate = (tokens, hidden), (hidden,), (tokens, middle)
    q, k, table = (1, 32, tokens, 128), (1, 8, tokens, 128), (1, tokens, 128)
    logits, labels = {"logits": (tokens, classes)}, {"labels": (tokens,)}
    chosen = {"labels": classes}
    return [
        Program("rms_norm", rms_norm, {"x": x, "weight": gain}, of_norm),
        Program("add_rms_norm", add_rms_norm, {"x": x, "residual": x, "weight": gain}, of_sum),
        Program("layer_norm", layer_norm, {"x": x, "weight": gain, "bias": gain}, of_layer_norm),
        Program("silu_mul", silu_mul, {"gate": gate, "up": gate}, lambda of: of.liger_swiglu),
        Program("gelu_mul", gelu_mul, {"gate": gate, "up": gate}, lambda of: of.liger_geglu),
        Program(
            "rotary",
            rotary,
            {"q": q, "k": k, "cos": table, "sin": table},
            lambda of: of.liger_rope,
            heads=("q", "k"),
            frozen=("cos", "sin"),
        ),
        Program("softmax", softmax, {"x": x}, lambda of: of.liger_softmax),
        Program(
            "cross_entropy",
            cross_entropy,
            {**logits, **labels},
            lambda of: of.liger_cross_entropy,
            frozen=("labels",),
            labels=chosen,
        ),
        Program(
            "linear_cross_entropy",
            linear_cross_entropy,
            {"hidden": x, "head": (classes, hidden), **labels},
            lambda of: of.liger_fused_linear_cross_entropy,
            frozen=("labels",),
            labels=chosen,
        ),
    ]


def of_norm(functional: Any) -> Function:
    """Liger's rms_norm."""
    return lambda x, weight: functional.liger_rms_norm(x, weight, EPSILON)


def of_sum(functional: Any) -> Function:
    """Liger's add_rms_norm."""
    return lambda x, residual, weight: functional.liger_fused_add_rms_norm(
        x, residual, weight, EPSILON
    )


def of_layer_norm(functional: Any) -> Function:
    """Liger's layer_norm."""
    return lambda x, weight, bias: functional.liger_layer_norm(x, weight, bias, EPSILON)


# --- versions -------------------------------------------------------------------------------------


def compiled(program: Program, backend: str, options: Mapping[str, Any] | None = None) -> Function:
    """As a user compiles it."""
    found: Function = torch.compile(
        program.function, backend=backend, dynamic=False, options=dict(options or {})
    )
    return found


def by_liger(program: Program) -> Function:
    """Raises UnavailableError."""
    try:
        functional = importlib.import_module("liger_kernel.transformers.functional")
        if program.liger is not None:
            return program.liger(functional)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise UnavailableError(f"Liger cannot be used: {error}") from error
    raise UnavailableError("Liger has no such function")


def makers(device: str) -> dict[str, Callable[[Program], Function]]:
    """By name. On a GPU tilegym's kernels run whatever the gate would choose; as it chooses,
    `auto`.
    """
    kernels = {} if device == "cpu" else {"tilegym.kernels": "always"}
    found: dict[str, Callable[[Program], Function]] = {
        "tilegym": functools.partial(compiled, backend="tilegym", options=kernels),
        "inductor": functools.partial(compiled, backend="inductor"),
    }
    if device != "cpu":
        found["auto"] = functools.partial(compiled, backend="tilegym")
        found["liger"] = by_liger
    return found


def outcome(
    function: Function, inputs: Sequence[torch.Tensor], slopes: Sequence[torch.Tensor] = ()
) -> list[torch.Tensor]:
    """Results, and gradients of all that has one. slopes: of the results; ones if there are none
    (a loss).
    """
    results = results_of(function(*inputs))
    leaves = [x for x in inputs if x.requires_grad]
    slopes = slopes or [torch.ones_like(result) for result in results]
    return [*(r.detach() for r in results), *torch.autograd.grad(results, leaves, slopes)]


def results_of(returned: Any) -> list[torch.Tensor]:
    """All that a program returned."""
    return list(returned) if isinstance(returned, (tuple, list)) else [returned]


def slopes_of(program: Program, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Random gradients of the results; none of a loss."""
    results = results_of(program.function(*inputs))
    return [torch.randn_like(result) for result in results if result.dim()]


def judge(
    program: Program, inputs: Sequence[torch.Tensor], slopes: Sequence[torch.Tensor]
) -> Callable[[Sequence[torch.Tensor]], Verdict]:
    """What holds an outcome against float64, within the budget of the program uncompiled."""
    original = outcome(program.function, inputs, slopes)
    exact = oracle.float64(outcome)(program.function, list(inputs), list(slopes))
    return lambda results: within_budget(results, exact, original)
