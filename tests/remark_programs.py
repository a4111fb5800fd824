"""Small models of which nothing, or not all, is fused: one for each thing that a remark can say.

`python -m tests.remark_programs` writes the remarks of all of them to tests/golden/remarks.txt,
which tests/test_remark_words.py compares. Two layers each, so that folding is seen.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tile_backend
from tile_backend import remarks
from tile_backend.remark_filter import RemarkFilter

GOLDEN = Path(__file__).parent / "golden" / "remarks.txt"
WIDTH = 32


@dataclasses.dataclass(frozen=True)
class Program:
    """layer: the forward of each of two equal layers, f(self, x); see Layer for the weights."""

    layer: Callable[..., Any]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtype: torch.dtype = torch.float32

    @property
    def title(self) -> str:
        return self.layer.__name__

    def remarks(self) -> list[str]:
        torch.compiler.reset()
        model, x = Model(self.layer).to(self.dtype), torch.randn(2, 8, WIDTH, dtype=self.dtype)
        with mock.patch.dict(os.environ, dict(self.environment)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = tile_backend.explain(model, x)
        wanted = RemarkFilter.parse("fused,declined,near-miss,analysis")
        lines = (str(remark) for remark in remarks.remarks(report, wanted))
        return [re.sub(r"remark_programs\.py:\d+", "FILE:LINE", line) for line in lines]


class Layer(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.gate, self.up = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.eps = nn.Buffer(torch.tensor(1e-6))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Model(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(function) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        kept = []
        for layer in self.layers:
            result = layer(x)
            x, *more = result if isinstance(result, tuple) else (result,)
            kept += more
        return (x, *kept) if kept else x


# --- norms ----------------------------------------------------------------------------------------


def a_norm(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def epsilon_outside(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6))


def mean_over_tokens(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6))


def a_cube(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.pow(3).mean(-1, keepdim=True) + 1e-6))


def epsilon_is_a_tensor(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def half_the_cast(self: Any, x: Tensor) -> Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return self.weight * (x * scale.to(x.dtype))


def the_scale_is_kept(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return self.weight * (x * scale), scale


def the_scale_is_used(self: Any, x: Tensor) -> Tensor:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return self.weight * (x * scale) + scale.tanh()


def the_input_is_written_to(self: Any, x: Tensor) -> Tensor:
    x = self.up(x)
    squares = x.pow(2)
    x.add_(1)
    return self.weight * (x * torch.rsqrt(squares.mean(-1, keepdim=True) + 1e-6))


def a_grad_switch_inside(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return self.weight * (x * scale)


# --- gates ----------------------------------------------------------------------------------------


def a_gate(self: Any, x: Tensor) -> Tensor:
    return F.silu(self.gate(x)) * self.up(x)


def the_activation_is_kept(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    active = F.silu(self.gate(x))
    return active * self.up(x), active


def a_sum_of_gates(self: Any, x: Tensor) -> Tensor:
    return F.silu(self.gate(x)) + self.up(x)


# --- attention ------------------------------------------------------------------------------------


def heads(self: Any, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4))


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def attention_with_dropout(self: Any, x: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(*heads(self, x), dropout_p=0.1))


def softmax_over_the_queries(self: Any, x: Tensor) -> Tensor:
    q, k, v = heads(self, x)
    return joined(torch.softmax(q @ k.mT * 0.25, -2) @ v)


def weights_are_kept(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = heads(self, x)
    weights = torch.softmax(q @ k.mT * 0.25, -1)
    return joined(weights @ v), weights


# --- graphs ---------------------------------------------------------------------------------------


def a_graph_break(self: Any, x: Tensor) -> Tensor:
    x = a_gate(self, x)
    torch._dynamo.graph_break()
    return x


def inside_vmap(self: Any, x: Tensor) -> Tensor:
    return torch.vmap(functools.partial(a_gate, self))(x)


def only_an_anchor(self: Any, x: Tensor) -> Tensor:
    return F.silu(self.gate(x)) - torch.softmax(x, 1).cumsum(-1)


PROGRAMS = (
    Program(a_norm),
    Program(a_norm, {"TILEGYM_KERNELS": "always"}),
    Program(a_norm, {"TILEGYM_KERNELS": "never"}),
    Program(a_norm, {"TILEGYM_EXCLUDE": '["layers.1"]'}),
    Program(a_norm, dtype=torch.float64),
    Program(a_norm, {"TILEGYM_KERNELS": "interpret"}, torch.float64),
    *map(Program, (epsilon_outside, mean_over_tokens, a_cube)),
    Program(epsilon_is_a_tensor),
    Program(half_the_cast, dtype=torch.bfloat16),
    *map(Program, (the_scale_is_kept, the_scale_is_used)),
    *map(Program, (the_input_is_written_to, a_grad_switch_inside)),
    *map(Program, (a_gate, the_activation_is_kept, a_sum_of_gates)),
    *map(Program, (attention_with_dropout, softmax_over_the_queries, weights_are_kept)),
    *map(Program, (a_graph_break, inside_vmap, only_an_anchor)),
)


def text() -> Iterator[str]:
    """Each program with its settings, then what is said of it."""
    for program in PROGRAMS:
        settings = [f"{name}={value}" for name, value in program.environment.items()]
        dtype = str(program.dtype).removeprefix("torch.")
        yield " ".join((program.title.replace("_", " "), f"({dtype})", *settings))
        yield from (f"  {line}" for line in program.remarks())


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(text()) + "\n")
