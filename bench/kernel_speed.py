"""Each kernel alone against what Inductor makes of its reference, at the shapes of real models.

Shares are of ceilings that the same run measures: bytes that have to be moved against a copy, FLOPs
of attention against a matrix product. `again` is the kernel a second time: its ratio to the first
is the noise. Attention is held against `scaled_dot_product_attention` as well, since its reference
keeps all scores in memory. In a model Inductor may fuse an op with its neighbours, which a lone op
does not show: that is for a bench of whole models.

Needs a GPU. The kernels are those that tilegym.kernels="always" launches.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bench import gpu_timer, result_file
from tile_backend.lowering import custom_op, reference
from tile_backend.lowering.progress import track
from tile_backend.patterns import all_fusions

BF16 = torch.bfloat16
PREFILL, DECODE = 8192, 16
"""Rows of a prefill (four prompts of 2048 tokens) and of a decode step."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. tensors: name -> shape, bfloat16; `heads` are laid out as models have them.

    flop: of the matrix products, for a case that these bound.
    """

    title: str
    op: str
    tensors: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: tuple[str, ...] = ()
    flop: int = 0

    def arguments(self, device: str) -> dict[str, Any]:
        """All arguments of the op in schema order."""
        given = {name: self.tensor(name, device) for name in self.tensors}
        return custom_op.record(self.op).signature.bind((), {**given, **self.numbers})

    def tensor(self, name: str, device: str) -> torch.Tensor:
        """Random; [B, H, S, D] of `heads` lie as [B, S, H, D]."""
        shape = list(self.tensors[name])
        if name in self.heads:
            shape[1:3] = shape[2:0:-1]
            return torch.randn(shape, dtype=BF16, device=device).transpose(1, 2)
        return torch.randn(shape, dtype=BF16, device=device)


def row_cases() -> list[Case]:
    """Norms and gates of a model of 8e9 parameters: 4096 wide, 14336 in the middle; one wider."""
    cases = []
    for rows, width in ((PREFILL, 4096), (DECODE, 4096), (PREFILL, 8192)):
        x, gain, eps = (rows, width), (width,), {"eps": 1e-6}
        size = f"{rows}x{width}"
        cases += [
            Case(f"norm {size}", "rms_norm", {"x": x, "weight": gain}, eps),
            Case(
                f"add and norm {size}",
                "add_rms_norm",
                {"x": x, "residual": x, "weight": gain},
                eps,
            ),
            Case(f"layer norm {size}", "layer_norm", {"x": x, "weight": gain, "bias": gain}, eps),
        ]
    for op, rows in (("silu_mul", PREFILL), ("silu_mul", DECODE), ("gelu_mul", PREFILL)):
        gate = (rows, 14336)
        cases.append(Case(f"{op} {rows}x14336", op, {"gate": gate, "up": gate}))
    cases.append(Case("softmax 8192x4096", "softmax", {"x": (PREFILL, 4096)}))
    return [*cases, *gradient_cases()]


def gradient_cases() -> list[Case]:
    """Their backward at 8192 rows; the sums over rows in the parts that a model's have."""
    cases = []
    for width, parts in ((4096, 384), (8192, 256)):
        x, gain, size = (PREFILL, width), (width,), f"{PREFILL}x{width}"
        rows = {"dout": x, "x": x, "weight": gain}
        sums = {"eps": 1e-6, "weight_parts": parts}
        added = {**rows, "added": x}
        cases += [
            Case(f"backward of norm {size}", "rms_norm_grad", rows, {"added": None, **sums}),
            Case(f"backward of add and norm {size}", "rms_norm_grad", added, sums),
            Case(
                f"backward of layer norm {size}",
                "layer_norm_grad",
                rows,
                {**sums, "bias_parts": parts},
            ),
        ]
    gate = (PREFILL, 14336)
    for op in ("silu_mul_grad", "gelu_mul_grad"):
        title = f"backward of {op.removesuffix('_grad')} {PREFILL}x14336"
        cases.append(Case(title, op, {"dout": gate, "gate": gate, "up": gate}))
    scores = {"dout": (PREFILL, 4096), "x": (PREFILL, 4096)}
    return [*cases, Case("backward of softmax 8192x4096", "softmax_grad", scores)]


def head_cases() -> list[Case]:
    """32 query heads and 8 of keys and values, 128 wide."""
    cases = []
    for batch, length in ((4, 2048), (DECODE, 1)):
        q, k, table = (batch, 32, length, 128), (batch, 8, length, 128), (batch, 1, length, 128)
        tensors = {"q": q, "k": k, "cos": table, "sin": table}
        title = f"rotary {batch}x{length}"
        cases.append(Case(title, "rotary_qk", tensors, heads=("q", "k")))
    for batch, length in ((4, 2048), (1, 8192)):
        q, k = (batch, 32, length, 128), (batch, 8, length, 128)
        flop = 4 * batch * 32 * length * length * 128 // 2
        absent = dict.fromkeys(("mask", "padding", "segments", "offset", "sinks"))
        numbers = {**absent, "scale": 128**-0.5, "is_causal": True}
        title = f"causal attention {batch}x{length}"
        tensors = {"q": q, "k": k, "v": k}
        cases.append(Case(title, "attention", tensors, numbers, ("q", "k", "v"), flop))
    return cases


def cases() -> list[Case]:
    """All of them; each small enough for 40 GiB with its reference."""
    custom_op.define(all_fusions())
    return [*row_cases(), *head_cases()]


def versions(case: Case, values: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """The kernel twice, Inductor's code for the reference, and torch's own attention."""
    record = custom_op.record(case.op)
    kernel = functools.partial(record.overload, *values.values())
    torch._dynamo.reset()
    inductor = functools.partial(torch.compile(record.op.reference, dynamic=False), **values)
    found: dict[str, Callable[[], object]] = {"kernel": kernel, "inductor": inductor}
    if case.op == "attention":
        q, k, v = (values[name] for name in "qkv")
        attend = torch.nn.functional.scaled_dot_product_attention
        found["sdpa"] = lambda: attend(q, k, v, is_causal=True, enable_gqa=True)
        if q.shape[2] > PREFILL // 2:  # all scores of the reference: 32 heads of 8192 squared
            del found["inductor"]
    return {**found, "again": kernel}


def moved(case: Case, values: Mapping[str, Any]) -> int:
    """Bytes of arguments and results."""
    outputs = reference.as_tuple(custom_op.record(case.op).op.outputs(**values))
    tensors = [*reference.tensors_of(values), *outputs]
    return sum(t.numel() * t.element_size() for t in tensors)


def row(
    case: Case,
    values: Mapping[str, Any],
    ceiling: Mapping[str, float],
    found: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Medians and spreads in microseconds, ratios to the kernel, and the share of the ceiling."""
    spreads = {name: result_file.spread(times) for name, times in found.items()}
    kernel = spreads["kernel"]["median"]
    work, most = (
        (case.flop, ceiling["flop_per_us"])
        if case.flop
        else (moved(case, values), ceiling["bytes_per_us"])
    )
    return {
        "case": case.title,
        "op": case.op,
        **{f"{name}_us": {k: round(v, 3) for k, v in s.items()} for name, s in spreads.items()},
        "over_kernel": {n: round(s["median"] / kernel, 4) for n, s in spreads.items()},
        "share_of_ceiling": round(work / kernel / most, 4),
    }


def measure(samples: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows, and the ceilings they are measured against."""
    rows = []
    with torch.no_grad():
        ceiling = gpu_timer.ceilings()
        for case in track(cases(), "kernel_speed"):
            values = case.arguments("cuda")
            found = gpu_timer.time_rounds(versions(case, values), samples)
            rows.append(row(case, values, ceiling, found))
    return rows, ceiling


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table that is printed last: over 1.00 the kernel is faster."""

    def ratio(found: Mapping[str, Any], name: str) -> str:
        value = found["over_kernel"].get(name)
        return "" if value is None else f"{value:.2f}"

    return result_file.table(
        ("case", "kernel us", "inductor/kernel", "sdpa/kernel", "again/kernel", "of ceiling"),
        [
            (
                found["case"],
                f"{found['kernel_us']['median']:.1f}",
                *(ratio(found, name) for name in ("inductor", "sdpa", "again")),
                f"{found['share_of_ceiling']:.0%}",
            )
            for found in rows
        ],
    )


def main() -> None:
    """Measure every case and save the result."""
    parser = argparse.ArgumentParser(description="Device time of each kernel.")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench.kernel_speed: needs a CUDA device, and torch sees none")
    rows, ceiling = measure(arguments.samples)
    if not arguments.no_save:
        facts = {"settings": vars(arguments), "ceilings": ceiling}
        path = result_file.save("kernel_speed", rows, **facts)
        print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows))


if __name__ == "__main__":
    main()
