"""The custom ops of attention: the one that a model's attention becomes, and those it is made of.

`attention_with_lse` is `attention` in training: its log-sum-exp is all that the backward needs
beside inputs and output. `attention_grad_q` and `attention_grad_kv` are that backward.
`attention_grad` is the same in one, on a CPU.
`attention_split` and `attention_join` are `attention` for few queries and many keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Op
from tile_backend.patterns import _attention_decode as decode
from tile_backend.patterns import _attention_gradient
from tile_backend.patterns import _attention_math as math_of
from tile_backend.patterns import _attention_on_cpu as on_cpu
from tile_backend.patterns._attention_work import flops

MASKS = "Tensor? mask, Tensor? padding, Tensor? segments, Tensor? offset"
PLACES = "bool is_causal=False, int start=0, int? window=None, int? chunk=None"
FORM = "str form='sdpa'"


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    padding: torch.Tensor | None,
    segments: torch.Tensor | None,
    offset: torch.Tensor | None,
    sinks: torch.Tensor | None,
    scale: float,
    is_causal: bool = False,
    start: int = 0,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    fill: float | None = None,
    form: str = math_of.SDPA,
) -> torch.Tensor:
    """softmax(q @ k^T * scale, masked) @ v.

    q [B, H, S, D], k [B, Hkv, L, D], v [B, Hkv, L, E], H a multiple of Hkv; sinks [H]. Result
    [B, H, S, E] in q's dtype. A key is seen where `_attention_math.seen` and the mask say so; the
    mask broadcasts to [B, H, S, L]: bool, or floating-point and added to the scores.

    fill: None for the softmax of SDPA, in which hidden scores are -inf and a query that sees
    nothing gives 0. Else torch.softmax, and hidden scores are `fill`; a mask that is added says so
    with any value, and a row of -inf gives NaN. form: how the model wrote it, see _attention_math.
    """
    if mask is not None and mask.dim() < 2:  # one row for every query; SDPA takes no such mask
        mask = mask.reshape(1, -1)
    places: dict[str, Any] = {
        "padding": padding,
        "segments": segments,
        "offset": offset,
        "is_causal": is_causal,
        "start": start,
        "window": window,
        "chunk": chunk,
    }
    hides = fill is not None and (mask is None or mask.dtype == torch.bool)
    if softcap is not None or sinks is not None or hides or math_of.by_hand(form):
        given: dict[str, Any] = {
            "mask": mask,
            "scale": scale,
            "softcap": softcap,
            "fill": fill,
            "form": form,
            **places,
        }
        return math_of.written_out(q, k, v, sinks, **given)
    alone = places == {**dict.fromkeys(places), "is_causal": True, "start": 0}
    simple = alone and scale > 0  # see _attention_on_cpu.possible
    masked = mask is not None or form != math_of.SDPA
    visible = None if simple and not masked else math_of.seen(q, k, **places)
    if masked or visible is not None:
        mask = as_tensor(visible, mask, q, k, form)
    result = F.scaled_dot_product_attention(
        *(q, k, v),
        attn_mask=mask,
        is_causal=simple and not masked,
        scale=scale,
        enable_gqa=bool(q.shape[1] != k.shape[1]),
    )
    if fill is None or mask is None:
        return result
    nothing = (mask == -math.inf).all(-1, keepdim=True)
    factor = torch.ones_like(nothing, dtype=result.dtype).masked_fill(nothing, math.nan)
    return result * factor  # a factor, so that gradients are nan as well


def as_tensor(
    visible: torch.Tensor | None,
    mask: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    form: str,
) -> torch.Tensor:
    """The mask that the model wrote, for one that the other arguments stand for, and theirs."""
    if visible is None:  # they hide nothing
        return q.new_ones((q.shape[2], k.shape[2]), dtype=torch.bool) if mask is None else mask
    whole, low = both(visible, mask), math_of.lowest(form, None)
    return whole if low == -math.inf else q.new_zeros(whole.shape).masked_fill(~whole, low)


def both(visible: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One mask for two."""
    if mask is None:
        return visible
    return visible & mask if mask.dtype == torch.bool else mask.masked_fill(~visible, -math.inf)


def outputs(q: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
    """Laid out as [B, S, H, E], which the output projection reads without a copy."""
    batch, heads, length, _width = q.shape
    return q.new_empty((batch, length, heads, v.shape[-1])).transpose(1, 2)


# --- training -------------------------------------------------------------------------------------


def attention_with_lse(**arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The result of `attention`, and the log-sum-exp of its logits, float32 [B, H, S].

    With a mask that is added [2, B, H, S]: the log-sum-exp, and what rounding took away from it.
    That is all of log(L) for a query all of whose scores are the lowest number.
    """
    result = attention(**arguments)
    others = {name: value for name, value in arguments.items() if name not in ("v", "fill")}
    if not math_of.is_added(arguments["mask"]):
        return result, math_of.log_sum_exp(**others)
    return result, math_of.log_sum_exp_in_two(arguments["fill"], **others)


def outputs_with_lse(**arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    q = arguments["q"]
    parts = (2,) if math_of.is_added(arguments["mask"]) else ()
    return outputs(**arguments), q.new_empty((*parts, *q.shape[:3]), dtype=torch.float32)


def attention_grad_q(dout: torch.Tensor, q: torch.Tensor, **others: Any) -> torch.Tensor:
    """The gradient of q. dout: that of the result. delta: sum(dout * result, -1), float32."""
    _, slopes = math_of.weights_and_slopes(dout, q, **others)
    return math_of.gradient_of_q(q, slopes=slopes, **others).to(q.dtype)


def like_projection(x: torch.Tensor) -> torch.Tensor:
    """A tensor of x's shape that lies as [B, S, H, D] does."""
    batch, heads, length, width = x.shape
    return x.new_empty((batch, length, heads, width)).transpose(1, 2)


def attention_grad_kv(dout: torch.Tensor, q: torch.Tensor, **others: Any) -> Any:
    """The gradients of k and v."""
    return of_keys_and_values(dout, q, *math_of.weights_and_slopes(dout, q, **others), **others)


def of_keys_and_values(
    dout: torch.Tensor, q: torch.Tensor, weights: torch.Tensor, slopes: torch.Tensor, **others: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = others["k"], others["v"]
    of_keys = math_of.gradient_of_k(q, slopes, others["scale"], others.get("form", math_of.SDPA))
    of_values = weights.transpose(-1, -2) @ dout.float()
    of_keys, of_values = (math_of.per_key_head(k, x) for x in (of_keys, of_values))
    return of_keys.to(k.dtype), of_values.to(v.dtype)


def attention_grad(dout: torch.Tensor, q: torch.Tensor, **others: Any) -> tuple[torch.Tensor, ...]:
    """The gradients of q, k and v. out: the result of attention, which had that log-sum-exp."""
    given = {name: x for name, x in others.items() if name not in ("out", "fill")}
    weights, slopes = math_of.weights_and_slopes(dout, q, delta=None, **given)
    of_q = math_of.gradient_of_q(q, slopes=slopes, **given).to(q.dtype)
    return (of_q, *of_keys_and_values(dout, q, weights, slopes, **given))


def sizes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """See Op.sizes; kv_heads: of k and v. A start of 0 is what most calls have."""
    q, k = arguments["q"], arguments["k"]
    found = dict(zip(("batch", "heads", "queries"), q.shape, strict=False))
    found |= dict(zip(("kv_heads", "keys"), k.shape[1:], strict=False))
    start = arguments["start"]
    if not isinstance(start, int) or start:
        found["start"] = start
    if "splits" in arguments:
        found["splits"] = arguments["splits"]
    return found


UNSIZED = ("mask", "padding", "segments", "offset", "sinks", "lse", "delta")
"""Whose last dimension is one of these sizes."""
SIZED: dict[str, Any] = {"sizes": sizes, "unsized": UNSIZED, "unread": ("form",), "loses": True}

GRADIENT = f"(Tensor dout, Tensor q, Tensor k, Tensor v, {MASKS}, Tensor lse, Tensor delta,"
GRADIENT += f" float scale, {PLACES}, float? softcap=None, {FORM})"

ATTENTION = (
    f"(Tensor q, Tensor k, Tensor v, {MASKS}, Tensor? sinks, float scale, {PLACES},"
    f" float? softcap=None, float? fill=None, {FORM}) -> "
)
SPLIT = (
    f"(Tensor q, Tensor k, Tensor v, {MASKS}, float scale, int splits, {PLACES},"
    f" float? softcap=None, {FORM}) -> (Tensor, Tensor)"
)

SDPA = tuple(
    f"_scaled_dot_product_{kind}"
    for kind in (
        "flash_attention",
        "efficient_attention",
        "cudnn_attention",
        "flash_attention_for_cpu",
        "fused_attention_overrideable",
        "attention_math",
    )
)
"""What scaled_dot_product_attention becomes, by device and arguments."""

OPS = (
    Op(
        "attention",
        f"{ATTENTION}Tensor",
        attention,
        outputs,
        gradient=_attention_gradient.GRADIENT,
        gradient_on_cpu=_attention_gradient.ON_CPU,
        on_cpu=on_cpu.forward,
        steps=decode.in_two_steps,
        stands_for=SDPA,
        flops=flops,
        **SIZED,
    ),
    Op(
        "attention_with_lse",
        f"{ATTENTION}(Tensor, Tensor)",
        attention_with_lse,
        outputs_with_lse,
        on_cpu=on_cpu.with_lse,
        flops=flops,
        **SIZED,
    ),
    Op(
        "attention_grad_q",
        f"{GRADIENT} -> Tensor",
        attention_grad_q,
        lambda **given: like_projection(given["q"]),
        **SIZED,
    ),
    Op(
        "attention_grad_kv",
        f"{GRADIENT} -> (Tensor, Tensor)",
        attention_grad_kv,
        lambda **given: (like_projection(given["k"]), like_projection(given["v"])),
        **SIZED,
    ),
    Op(
        "attention_grad",
        f"(Tensor dout, Tensor q, Tensor k, Tensor v, {MASKS}, Tensor out, Tensor lse, float scale,"
        f" {PLACES}, float? softcap=None, float? fill=None, {FORM}) -> (Tensor, Tensor, Tensor)",
        attention_grad,
        lambda **given: tuple(like_projection(given[name]) for name in ("q", "k", "v")),
        on_cpu=on_cpu.gradients,
        **SIZED,
    ),
    Op(
        "attention_split",
        SPLIT,
        decode.attention_split,
        decode.outputs_of_split,
        flops=flops,
        **SIZED,
    ),
    Op(
        "attention_join",
        "(Tensor parts, Tensor lse, Tensor? sinks, ScalarType dtype) -> Tensor",
        decode.attention_join,
        decode.outputs_of_join,
        sizes=decode.sizes_of_join,
        unsized=("lse", "sinks"),
    ),
)
