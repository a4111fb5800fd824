"""Arguments for every op: small, with odd sizes, optional operands absent, every rounding mode.

A case names shapes; `arguments` makes tensors of them in a given dtype, contiguous or not.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.custom_op import Record, define, record
from tile_backend.patterns import all_fusions

define(all_fusions())

LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)


@dataclasses.dataclass(frozen=True)
class Weight:
    """A gain near 1, which stays float32 in a low-precision case where `wide`."""

    shape: tuple[int, ...]
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Mask:
    """A boolean mask whose first row attends to nothing."""

    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A tensor of these integers."""

    values: Any


@dataclasses.dataclass(frozen=True)
class Labels:
    """Classes below `classes`; the second label is -100."""

    shape: tuple[int, ...]
    classes: int = 37


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of an op; a tuple stands for a random tensor of that shape."""

    op: str
    values: Mapping[str, Any]

    @property
    def record(self) -> Record:
        return record(self.op)

    def __str__(self) -> str:
        words = [str(v) for v in self.values.values() if isinstance(v, (str, bool, int, float))]
        absent = [f"no_{name}" for name, value in self.values.items() if value is None]
        return "-".join([self.op, *absent, *words])


def _norms() -> list[Case]:
    roundings = ("once", "before_weight", "scale", "every_op")
    cases = []
    for rounding, offset in itertools.product(roundings, (0.0, 1.0)):
        scalars = {"eps": 1e-6, "offset": offset, "rounding": rounding}
        wide = Weight((37,), wide=rounding == "once")
        cases.append(Case("rms_norm", {"x": (3, 5, 37), "weight": wide, **scalars}))
    pair = {"x": (3, 5, 37), "residual": (3, 5, 37)}
    cases.append(Case("rms_norm", {"x": (3, 37), "weight": None, "eps": 1e-6}))
    for op, rounding in itertools.product(("add_rms_norm", "rms_norm_add"), roundings):
        scalars = {"eps": 1e-6, "offset": 0.0, "rounding": rounding}
        cases.append(Case(op, {**pair, "weight": Weight((37,)), **scalars}))
        cases.append(Case(op, {**pair, "weight": None, **scalars}))
    for rounding in ("once", "before_weight", "every_op"):
        scalars = {"eps": 1e-5, "rounding": rounding}
        for weight, bias in itertools.product((Weight((37,)), None), repeat=2):
            layer = {"x": (3, 5, 37), "weight": weight, "bias": bias, **scalars}
            cases.append(Case("layer_norm", layer))
    return cases


def _gates() -> list[Case]:
    pair = {"gate": (3, 5, 37), "up": (3, 5, 37)}
    cases = []
    for rounding in ("activation", "once", "every_op"):
        cases.append(Case("silu_mul", {**pair, "alpha": 1.0, "rounding": rounding}))
        cases.append(Case("silu_mul", {**pair, "alpha": 1.702, "rounding": rounding}))
        cases.append(Case("gelu_mul", {**pair, "approximate": "tanh", "rounding": rounding}))
    cases.append(Case("gelu_mul", pair))
    return cases


def _rotary() -> list[Case]:
    layouts, roundings = ("half", "interleaved", "deinterleave"), ("every_op", "once")
    cases = []
    for layout, rounding, full in itertools.product(layouts, roundings, (True, False)):
        table = (2, 1, 5, 6 if full else 3)
        scalars = {"layout": layout, "rotary_dim": 6, "conjugate": full, "rounding": rounding}
        tables = {"cos": table, "sin": table, **scalars}
        cases.append(Case("rotary", {"x": (2, 3, 5, 10), **tables}))
        cases.append(Case("rotary_qk", {"q": (2, 4, 5, 10), "k": (2, 2, 5, 10), **tables}))
    cases.append(Case("rotary", {"x": (2, 3, 5, 6), "cos": (5, 6), "sin": (5, 6)}))
    return cases


def _attention() -> list[Case]:
    q, kv = (2, 4, 5, 6), {"k": (2, 2, 7, 6), "v": (2, 2, 7, 9)}
    absent = dict.fromkeys(("mask", "padding", "segments", "offset", "sinks"))
    grouped = {"q": q, **kv, **absent, "scale": 0.4}
    documents = {"segments": Numbers([[0, 0, 0, 1, 1, 1, 2]])}
    return [
        Case("attention", grouped),
        Case("attention", {**grouped, "is_causal": True}),
        Case("attention", {**grouped, "mask": (2, 1, 5, 7)}),
        Case("attention", {**grouped, "mask": Mask((5, 7))}),
        Case("attention", {**grouped, "mask": Mask((2, 1, 5, 7)), "fill": -1e4}),
        Case("attention", {**grouped, "k": q, "v": q, "is_causal": True}),
        # Values as wide as keys: SDPA then keeps a log-sum-exp too, which costs a bit of accuracy.
        Case("attention", {**grouped, "v": kv["k"], "is_causal": True, "start": 1, "window": 3}),
        Case("attention", {**grouped, "chunk": 4, "offset": Numbers([2])}),
        Case("attention", {**grouped, "padding": Mask((2, 7)), "fill": -1e38}),
        Case("attention", {**grouped, **documents, "is_causal": True}),
        Case("attention", {**grouped, "sinks": (4,), "softcap": 2.0}),
        *_decode(grouped),
    ]


def _decode(grouped: Mapping[str, Any]) -> list[Case]:
    """One part: how the keys are divided among several is the kernel's choice."""
    split = {name: value for name, value in grouped.items() if name != "sinks"}
    parts = {"parts": (11, 2, 4, 5, 9), "lse": (11, 2, 4, 5), "sinks": None}
    return [
        Case("attention_split", {**split, "splits": 1}),
        Case("attention_split", {**split, "mask": Mask((2, 4, 5, 7)), "splits": 1}),
        Case("attention_join", {**parts, "dtype": torch.float32}),
        Case("attention_join", {**parts, "sinks": (4,), "dtype": torch.bfloat16}),
    ]


def _attention_backward() -> list[Case]:
    q, kv = (2, 4, 5, 6), {"k": (2, 2, 7, 6), "v": (2, 2, 7, 9)}
    absent = dict.fromkeys(("mask", "padding", "segments", "offset"))
    per_query = Weight((2, 4, 5), wide=True)
    given = {"dout": (2, 4, 5, 9), "q": q, **kv, **absent, "lse": per_query, "delta": per_query}
    scalars = {"scale": 0.4, "is_causal": True}
    return [
        Case("attention_with_lse", {"q": q, **kv, **absent, "sinks": (4,), **scalars}),
        Case("attention_grad_q", {**given, **scalars}),
        Case("attention_grad_kv", {**given, **scalars}),
    ]


def _norm_gradients() -> list[Case]:
    """Sums of one part: how the rows are divided among several is the kernel's choice."""
    rows, gain = {"dout": (3, 5, 37), "x": (3, 5, 37)}, Weight((37,), wide=True)
    rms = {**rows, "weight": gain, "added": None, "eps": 1e-6, "weight_parts": 1}
    layer = {**rows, "weight": gain, "eps": 1e-5, "weight_parts": 1, "bias_parts": 1}
    cases = [
        Case("rms_norm_grad", rms),
        Case("rms_norm_grad", {**rms, "added": (3, 5, 37), "offset": 1.0, "weight_parts": 0}),
        Case("rms_norm_grad", {**rms, "weight": None, "weight_parts": 0}),
        Case("rms_norm_grad", {**rms, "of_x": False}),
        Case("layer_norm_grad", layer),
        Case("layer_norm_grad", {**layer, "weight": None, "weight_parts": 0}),
        Case("layer_norm_grad", {**layer, "bias_parts": 0, "of_x": False}),
    ]
    return cases


def _other_gradients() -> list[Case]:
    three = dict.fromkeys(("dout", "gate", "up"), (3, 5, 37))
    pair = {"dq": (2, 4, 5, 10), "dk": (2, 2, 5, 10)}
    cases = [
        Case("silu_mul_grad", {**three, "alpha": 1.702}),
        Case("silu_mul_grad", {**three, "of_gate": False}),
        Case("silu_mul_grad_packed", {**three, "up_first": True}),
        Case("gelu_mul_grad", three),
        Case("gelu_mul_grad_packed", {**three, "approximate": "tanh"}),
        Case("gelu_mul_grad", {**three, "approximate": "tanh", "of_up": False}),
        Case("softmax_grad", {"dout": (3, 5, 37), "x": (3, 5, 37)}),
    ]
    for layout, full in itertools.product(("half", "interleaved", "deinterleave"), (True, False)):
        table = (2, 1, 5, 6 if full else 3)
        scalars = {"layout": layout, "rotary_dim": 6, "conjugate": full, "dtype": torch.float32}
        given = {"cos": table, "sin": table, **scalars}
        cases.append(Case("rotary_grad", {"dout": (2, 3, 5, 10), **given}))
    return [*cases, Case("rotary_qk_grad", {**pair, **given})]


def _softmax() -> list[Case]:
    x = {"x": (3, 5, 37)}
    return [Case("softmax", x), Case("softmax", {**x, "dtype": torch.float32})]


def _losses() -> list[Case]:
    rows: dict[str, Any] = {"logits": (3, 5, 37), "labels": Labels((3, 5))}
    bounded = {"scale": 0.5, "softcap": 2.0, "label_smoothing": 0.25}
    kept = {"parts": Weight((3, 5, 2), wide=True), "factor": Weight((3, 5), wide=True)}
    layer: dict[str, Any] = {"hidden": (3, 5, 24), "weight": (37, 24), "bias": Weight((37,))}
    layer = {**layer, "labels": Labels((15,))}
    every_op = {**bounded, "rounding": "every_op"}
    wanted = {"gradients": "hidden,weight,bias"}
    return [
        Case("cross_entropy_rows", rows),
        Case("cross_entropy_rows", {**rows, **bounded}),
        Case("cross_entropy_rows", {**rows, **every_op}),
        Case("cross_entropy_grad", {**rows, **kept}),
        Case("cross_entropy_grad", {**rows, **kept, **bounded}),
        Case("cross_entropy_grad", {**rows, **kept, **every_op}),
        Case("cross_entropy", rows),
        Case("cross_entropy", {**rows, **every_op, "reduction": "sum"}),
        Case("cross_entropy", {**rows, "reduction": "none", "labels": Labels((15,))}),
        Case("cross_entropy_with_parts", {**rows, **bounded}),
        Case("linear_cross_entropy", layer),
        Case("linear_cross_entropy", {**layer, **every_op, "bias": None, "reduction": "sum"}),
        Case("linear_cross_entropy", {**layer, "reduction": "none"}),
        Case("linear_cross_entropy_with_gradients", {**layer, **wanted}),
    ]


CASES = (
    *(*_norms(), *_gates(), *_rotary(), *_attention(), *_attention_backward(), *_softmax()),
    *(*_norm_gradients(), *_other_gradients(), *_losses()),
)
OWN_KERNEL = tuple(case for case in CASES if case.record.op.composed is None)
"""Of the ops that have one; the others are made of these."""


def one_of_each() -> list[Case]:
    """The first case of every op."""
    return list({case.op: case for case in reversed(CASES)}.values())


def arguments(
    case: Case, dtype: torch.dtype, *, seed: int = 0, contiguous: bool = True, grad: bool = False
) -> dict[str, Any]:
    """All arguments of the op in schema order; floating tensors require grad where `grad`."""
    generator = torch.Generator().manual_seed(seed)

    def tensor(value: Any) -> Any:
        if isinstance(value, Labels):
            made = torch.randint(value.classes, value.shape, generator=generator)
            made.view(-1)[1] = -100
        elif isinstance(value, Numbers):
            made = torch.tensor(value.values)
        elif isinstance(value, Mask):
            made = torch.rand(value.shape, generator=generator) > 0.4
            made[..., 0, :] = False
        elif isinstance(value, Weight):
            made = 1 + 0.2 * torch.randn(value.shape, generator=generator)
            made = made if value.wide else made.to(dtype)
        elif isinstance(value, tuple):
            made = torch.randn(value, generator=generator).to(dtype)
        else:
            return value
        made = made if contiguous else strided(made)
        return made.requires_grad_(grad and made.is_floating_point())

    given = {name: tensor(value) for name, value in case.values.items()}
    return case.record.signature.bind((), given)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, every other element of storage whose dimensions lie in reverse order."""
    order = tuple(reversed(range(tensor.dim())))
    base = tensor.new_zeros([2 * tensor.shape[d] for d in order])
    view = base[tuple(slice(None, None, 2) for _ in order)].permute(order)
    return view.copy_(tensor)
