"""Arguments for every kernel in every class of shapes and values that the interpreter tests.

`CLASSES[name](op, dtype)` makes the arguments of one call. A class is the same idea for every op:
sizes that are no powers of two, one row, nothing, strides, large numbers, NaN and infinite rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests import kernel_compile
from tests.op_samples import strided
from tile_backend.lowering.custom_op import record

OPS = [op for op in kernel_compile.OPS if not op.startswith("attention_grad")]
"""But for the gradients of attention, some of whose arguments come from others."""
LOSSES = ("cross_entropy_rows", "cross_entropy_grad")
NORMS = ("rms_norm", "add_rms_norm", "rms_norm_add", "layer_norm")
ROWS = (
    *(*NORMS, "softmax", "silu_mul", "gelu_mul", *LOSSES),
    *("rms_norm_grad", "layer_norm_grad", "softmax_grad", "silu_mul_grad", "gelu_mul_grad"),
    *("silu_mul_grad_packed", "gelu_mul_grad_packed"),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Arguments = dict[str, Any]


def rows(op: str, leading: tuple[int, ...], width: int, dtype: torch.dtype) -> Arguments:
    """Arguments of an op on rows [*leading, width]."""
    generator = torch.Generator().manual_seed(len(op) + width)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x = random(*leading, width)
    op = op.removesuffix("_packed")
    if op.endswith("_grad") and op not in LOSSES:
        return gradient_rows(op, rows(op.removesuffix("_grad"), leading, width, dtype))
    if op == "softmax":
        return {"x": 4 * x}
    if op in LOSSES:
        return losses(op, 4 * x, generator)
    if op in ("silu_mul", "gelu_mul"):
        return {"gate": 2 * x, "up": random(*leading, width)}
    gains = {"weight": 1 + 0.2 * random(width)}
    if op == "layer_norm":
        gains["bias"] = 0.2 * random(width)
    added = {} if op in ("rms_norm", "layer_norm") else {"residual": random(*leading, width)}
    return {"x": x, **added, **gains, "eps": 1e-5}


def gradient_rows(op: str, given: Arguments) -> Arguments:
    """For the gradient of an op on rows: its arguments, all gradients wanted, sums of one part."""
    x = next(iter(given.values()))
    generator = torch.Generator().manual_seed(x.shape[-1])
    given = {name: value for name, value in given.items() if name != "bias"}
    given["dout"] = torch.randn(x.shape, generator=generator).to(x.dtype)
    if "eps" in given:
        given["weight_parts"] = 1
    if op == "layer_norm_grad":
        given["bias_parts"] = 1
    if op == "rms_norm_grad":
        given["added"] = torch.randn(x.shape, generator=generator).to(x.dtype)
    return given


def losses(op: str, logits: torch.Tensor, generator: torch.Generator) -> Arguments:
    """Labels of classes, the second of them -100, and what a forward of these logits keeps."""
    leading = logits.shape[:-1]
    labels = torch.randint(logits.shape[-1], leading, generator=generator)
    labels.view(-1)[1:2] = -100
    if op == "cross_entropy_rows":
        return {"logits": logits, "labels": labels}
    return {
        "logits": logits,
        "labels": labels,
        "parts": record("cross_entropy_rows").op.reference(logits, labels)[1],
        "factor": torch.rand(leading, generator=generator),
    }


def heads(
    op: str, queries: tuple[int, int, int], keys: tuple[int, int], dtype: torch.dtype, **given: Any
) -> Arguments:
    """queries: heads, length, width. keys: heads, length. Batch 2, as a model has it: [B, S, H, D]
    transposed.
    """
    generator = torch.Generator().manual_seed(sum(queries))
    count, length, width = queries

    def random(n: int, positions: int) -> torch.Tensor:
        made = torch.randn(2, positions, n, width, generator=generator).to(dtype)
        return made.transpose(1, 2)

    if op == "attention_join":
        parts = torch.randn(11, 2, count, length, width, generator=generator)
        sums = torch.randn(11, 2, count, length, generator=generator)
        return {"parts": parts, "lse": sums, "sinks": None, "dtype": dtype}
    if op.startswith("attention"):
        absent = dict.fromkeys(("mask", "padding", "segments", "offset", "sinks"))
        if op == "attention_split":  # of one part, which the reference has too
            length, given = min(length, 37), {**given, "splits": 1}
            del absent["sinks"]
        k, v = random(*keys), random(*keys)
        q = random(count, length)
        return {"q": q, "k": k, "v": v, **absent, "scale": width**-0.5, **given}
    half = torch.outer(torch.arange(length), 0.3 ** torch.arange(width // 2)).repeat(1, 2)
    tables = {"cos": half.cos()[None, None].to(dtype), "sin": half.sin()[None, None].to(dtype)}
    if op.endswith("_grad"):
        turn = {"layout": "half", "rotary_dim": -1, "conjugate": False, "dtype": dtype}
        given = {**tables, **turn, **given}
        if op == "rotary_grad":
            return {"dout": random(count, length), **given}
        return {"dq": random(count, length), "dk": random(keys[0], length), **given}
    if op == "rotary":
        return {"x": random(count, length), **tables, **given}
    return {"q": random(count, length), "k": random(keys[0], length), **tables, **given}


def ragged(op: str, dtype: torch.dtype) -> Arguments:
    if op in ROWS:
        return rows(op, (3, 7), 203, dtype)
    attends = op.startswith("attention") and op != "attention_join"
    causal = {"is_causal": True} if attends else {}
    return heads(op, (6, 37, 48), (2, 37), dtype, **causal)


def long_rows(op: str, dtype: torch.dtype) -> Arguments:
    """More than one piece per row; more than one tile of keys, more keys than queries."""
    return rows(op, (3,), 5000, dtype) if op in ROWS else heads(op, (4, 150, 64), (1, 200), dtype)


def one_row(op: str, dtype: torch.dtype) -> Arguments:
    return rows(op, (1,), 96, dtype) if op in ROWS else heads(op, (8, 1, 64), (2, 77), dtype)


def one_element(op: str, dtype: torch.dtype) -> Arguments:
    return rows(op, (1,), 1, dtype) if op in ROWS else heads(op, (1, 1, 2), (1, 1), dtype)


def empty(op: str, dtype: torch.dtype) -> Arguments:
    return rows(op, (0, 4), 64, dtype) if op in ROWS else heads(op, (2, 0, 64), (2, 5), dtype)


def with_strides(op: str, dtype: torch.dtype) -> Arguments:
    """Every other element of storage whose dimensions lie in reverse order."""
    return {
        name: strided(value) if isinstance(value, torch.Tensor) else value
        for name, value in ragged(op, dtype).items()
    }


def slices(op: str, dtype: torch.dtype) -> Arguments:
    """Parts of packed tensors that begin at odd addresses."""
    arguments = ragged(op, dtype)

    def part(tensor: torch.Tensor) -> torch.Tensor:
        wide = torch.nn.functional.pad(tensor, (3, 5))
        return wide[..., 3:-5]

    return {n: part(v) if isinstance(v, torch.Tensor) else v for n, v in arguments.items()}


def large(op: str, dtype: torch.dtype) -> Arguments:
    """Numbers whose squares, and for some whose sums, overflow their type."""
    arguments = ragged(op, dtype)
    factor = torch.finfo(dtype).max / 16 if op in ROWS else torch.finfo(dtype).max ** 0.5 / 16
    return scaled(arguments, factor)


def small(op: str, dtype: torch.dtype) -> Arguments:
    """Numbers whose squares are subnormal or zero."""
    return scaled(ragged(op, dtype), torch.finfo(dtype).smallest_normal ** 0.5)


def scaled(arguments: Arguments, factor: float) -> Arguments:
    """With its data, not its gains or tables, multiplied."""
    data = ("x", "residual", "gate", "up", "q", "k", "v", "dq", "dk", "logits")
    return {
        name: (value.double() * factor).to(value.dtype) if name in data else value
        for name, value in arguments.items()
    }


def not_finite(op: str, dtype: torch.dtype) -> Arguments:
    """One row of NaN, one with a NaN, one with infinities of both signs, one of -inf."""
    arguments = ragged(op, dtype)
    data = next(iter(arguments.values()))
    flat = data.reshape(-1, data.shape[-1]).clone()
    flat[1] = torch.nan
    flat[4, 5] = torch.nan
    flat[7, 0], flat[7, 9] = torch.inf, -torch.inf
    if op not in ("attention_split", "attention_with_lse"):
        # The log-sum-exp of an infinite score is NaN there, as the result is; torch says inf.
        flat[11, 3] = torch.inf
    flat[13] = -torch.inf
    name = next(iter(arguments))
    return {**arguments, name: flat.reshape(data.shape)}


CLASSES: Mapping[str, Callable[[str, torch.dtype], Arguments]] = {
    made.__name__: made
    for made in (
        ragged,
        long_rows,
        one_row,
        one_element,
        empty,
        with_strides,
        slices,
        large,
        small,
        not_finite,
    )
}

HEAD_WIDTHS = (64, 80, 96, 128, 256)


def arguments_of(op: str, name: str, dtype: torch.dtype) -> Arguments:
    """All arguments of a class, defaults filled in, in schema order."""
    return record(op).signature.bind((), CLASSES[name](op, dtype))


__all__ = ["CLASSES", "DTYPES", "HEAD_WIDTHS", "OPS", "arguments_of", "heads", "rows"]
