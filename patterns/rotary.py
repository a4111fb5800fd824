"""Rotary position embedding (Su et al., arXiv:2104.09864): an angle rotates pairs of features.

`layout` says which features form pair i of the rotated part, of width R:
  half          i and i + R/2, results in place          (GPT-NeoX, Llama and most others)
  interleaved   2i and 2i + 1, results in place          (GPT-J, GLM, Cohere, Meta's Llama code)
  deinterleave  2i and 2i + 1, results at i and i + R/2  (DeepSeek)
cos and sin have width R (each angle twice) or R/2, and broadcast against x in front of it. Features
from rotary_dim on are passed through. `rounding` is "every_op" (eager arithmetic in the promotion
of x and cos) or "once" (float32, rounded to x's dtype at the end). `conjugate` turns the other way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tile_backend.lowering.fusion import Fusion, Merge, Op, Shape, Spelling, Tensor
from tile_backend.patterns import _rotary_gradient


def rotary(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "half",
    rotary_dim: int = -1,
    conjugate: bool = False,
    rounding: str = "every_op",
) -> torch.Tensor:
    """Rotate the first rotary_dim features of x [..., D] by the tables cos, sin [..., R or R/2].

    rotary_dim -1 means all. Result: x's shape, in the dtype that `rounding` says.
    """
    width = x.shape[-1] if rotary_dim < 0 else rotary_dim
    turned, passed = x[..., :width], x[..., width:]
    if rounding == "once":
        turned, cos, sin = turned.float(), cos.float(), sin.float()
    if conjugate:
        sin = -sin
    if layout == "half":
        first, second = turned[..., : width // 2], turned[..., width // 2 :]
    else:
        first, second = turned[..., 0::2], turned[..., 1::2]
    if cos.shape[-1] == width:
        aligned = torch.cat((first, second), -1) if layout == "deinterleave" else turned
        result = aligned * cos + join(-second, first, layout) * sin
    else:
        result = join(first * cos - second * sin, second * cos + first * sin, layout)
    if rounding == "once":
        result = result.to(x.dtype)
    return result if rotary_dim < 0 else torch.cat((result, passed), -1)


def rotary_qk(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "half",
    rotary_dim: int = -1,
    conjugate: bool = False,
    rounding: str = "every_op",
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rotary` of q and of k by the same tables; they may differ in their number of heads."""
    attributes = (layout, rotary_dim, conjugate, rounding)
    return rotary(q, cos, sin, *attributes), rotary(k, cos, sin, *attributes)


def join(first: torch.Tensor, second: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "interleaved":
        return torch.stack((first, second), -1).flatten(-2)
    return torch.cat((first, second), -1)


def outputs(x: torch.Tensor, cos: torch.Tensor, rounding: str, **_: Any) -> torch.Tensor:
    dtype = x.dtype if rounding == "once" else torch.promote_types(x.dtype, cos.dtype)
    return torch.empty_like(x, dtype=dtype)


def qk_outputs(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, rounding: str, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return outputs(q, cos, rounding), outputs(k, cos, rounding)


# --- spellings of one tensor; q and k together are two of them, merged ----------------------------


def halves(x: Any) -> tuple[Any, Any]:
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def pairs(x: Any) -> tuple[Any, Any]:
    return x[..., 0::2], x[..., 1::2]


def half(x: Any, cos: Any, sin: Any) -> Any:
    first, second = halves(x)
    return x * cos + torch.cat((-second, first), -1) * sin


def half_conjugate(x: Any, cos: Any, sin: Any) -> Any:
    first, second = halves(x)
    return x * cos + torch.cat((second, -first), -1) * sin


def half_split(x: Any, cos: Any, sin: Any) -> Any:
    first, second = halves(x)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def half_split_conjugate(x: Any, cos: Any, sin: Any) -> Any:
    first, second = halves(x)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), -1)


def interleaved(x: Any, cos: Any, sin: Any) -> Any:
    first, second = pairs(x)
    return x * cos + torch.stack((-second, first), -1).flatten(-2) * sin


def interleaved_split(x: Any, cos: Any, sin: Any) -> Any:
    first, second = pairs(x)
    pair = (first * cos - second * sin, second * cos + first * sin)
    return torch.stack(pair, -1).flatten(-2)


def deinterleave(x: Any, cos: Any, sin: Any) -> Any:
    first, second = pairs(x)
    return torch.cat((first, second), -1) * cos + torch.cat((-second, first), -1) * sin


def deinterleave_split(x: Any, cos: Any, sin: Any) -> Any:
    first, second = pairs(x)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def complex_pairs(x: Any, frequencies: Any) -> Any:
    pair = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pair * frequencies).flatten(-2)


def complex_pairs_back(x: Any, frequencies: Any) -> Any:
    """The conjugate of a table turns the other way."""
    return complex_pairs(x, frequencies.conj())


def tables_of(x: Any, frequencies: Any) -> dict[str, Any]:
    """cos and sin are the real and imaginary part of exp(i * angle); views, no copy.

    Also of a table that is conjugated lazily, of which `view_as_real` would not be a view.
    """
    return {"x": x, "cos": torch.real(frequencies), "sin": torch.imag(frequencies)}


def in_float32(spelling: Callable[..., Any]) -> Callable[..., Any]:
    def wide(x: Any, cos: Any, sin: Any) -> Any:
        return spelling(x.float(), cos.float(), sin.float()).to(x.dtype)

    return wide


def rotated(factor: int, bound: Mapping[str, Any]) -> int:
    return factor * int(bound["cos"].shape[-1])


def partial(spelling: Callable[..., Any], factor: int) -> Callable[..., Any]:
    """Only the first features are rotated: factor * the tables' width of them."""

    def part(x: Any, cos: Any, sin: Any) -> Any:
        width = cos.shape[-1] * factor
        return torch.cat((spelling(x[..., :width], cos, sin), x[..., width:]), -1)

    return part


def wrong_sign(x: Any, cos: Any, sin: Any) -> Any:
    """neither half is negated, so this is no rotation."""
    first, second = halves(x)
    return x * cos + torch.cat((second, first), -1) * sin


def not_exchanged(x: Any, cos: Any, sin: Any) -> Any:
    """the halves are not exchanged, so this is no rotation."""
    first, second = halves(x)
    return x * cos + torch.cat((-first, second), -1) * sin


BACK = {"conjugate": True}
FORMS: tuple[tuple[Callable[..., Any], dict[str, Any], int], ...] = (
    (half, {"layout": "half"}, 1),
    (half_conjugate, {"layout": "half", **BACK}, 1),
    (half_split, {"layout": "half"}, 2),
    (half_split_conjugate, {"layout": "half", **BACK}, 2),
    (interleaved, {"layout": "interleaved"}, 1),
    (interleaved_split, {"layout": "interleaved"}, 2),
    (deinterleave, {"layout": "deinterleave"}, 1),
    (deinterleave_split, {"layout": "deinterleave"}, 2),
)


def spellings() -> tuple[Spelling, ...]:
    """Every form, in x's dtype and in float32, whole and partial, and complex multiplication."""
    found = []
    for form, fixed, factor in FORMS:
        for rounding, function in (("every_op", form), ("once", in_float32(form))):
            attributes = {**fixed, "rounding": rounding}
            name = f"{form.__name__}_{rounding}"
            found.append(
                Spelling(function, attributes=attributes, table_ratio=1 / factor, name=name)
            )
            found.append(
                Spelling(
                    partial(function, factor),
                    attributes={**attributes, "rotary_dim": functools.partial(rotated, factor)},
                    table_ratio=None,
                    name=f"{name}_partial",
                )
            )

    def rounded(x: Any, frequencies: Any) -> Any:
        return complex_pairs(x, frequencies).type_as(x)

    def rounded_back(x: Any, frequencies: Any) -> Any:
        return complex_pairs_back(x, frequencies).type_as(x)

    once = {"layout": "interleaved", "rounding": "once"}
    ways = (("complex", rounded, once), ("complex_conjugate", rounded_back, once | BACK))
    found += [
        Spelling(function, attributes=fixed, transform=tables_of, table_ratio=0.5, name=name)
        for name, function, fixed in ways
    ]
    return tuple(found)


ATTRIBUTES = "str layout='half', int rotary_dim=-1, bool conjugate=False, str rounding='every_op'"

FUSION = Fusion(
    name="rotary",
    summary=(
        "rotary position embedding: half-split, interleaved, partial, complex; q and k together"
    ),
    ops=(
        Op(
            "rotary",
            f"(Tensor x, Tensor cos, Tensor sin, {ATTRIBUTES}) -> Tensor",
            rotary,
            outputs,
            gradient=_rotary_gradient.GRADIENT,
        ),
        Op(
            "rotary_qk",
            f"(Tensor q, Tensor k, Tensor cos, Tensor sin, {ATTRIBUTES}) -> (Tensor, Tensor)",
            rotary_qk,
            qk_outputs,
            gradient=_rotary_gradient.GRADIENT,
        ),
        *_rotary_gradient.OPS,
    ),
    holes={
        "x": Tensor("... D"),
        "cos": Tensor("... R", dtype="T|f32"),
        "sin": Tensor("... R", dtype="T|f32"),
        "frequencies": Tensor("... R", dtype="c64"),
    },
    spellings=spellings(),
    near_misses=(wrong_sign, not_exchanged),
    alike=(("cos", "sin"),),
    anchors=(
        "cat/neg",
        "interleave/neg",
        "cat/sub",
        "interleave/sub",
        "as_complex",
        "view_as_complex",
    ),
    priority=25,  # above add_rms_norm: the last add of a rotation is no residual
    merge=Merge("rotary", "rotary_qk", separate="x", first="q", second="k", shared=("cos", "sin")),
    bench=(
        Shape(
            "llama-3-8b prefill",
            {
                "q": (1, 32, 8192, 128),
                "k": (1, 8, 8192, 128),
                "cos": (1, 1, 8192, 128),
                "sin": (1, 1, 8192, 128),
            },
        ),
    ),
)
