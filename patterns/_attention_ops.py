"""The custom ops of attention: the one that a model's attention becomes, and those it is made of.

`attention_with_lse` is `attention` in training: its log-sum-exp is all that the backward needs
beside inputs and output. `attention_grad_q` and `attention_grad_kv` are that backward.
`attention_split` and `attention_join` are `attention` for few queries and many keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Op
from tile_backend.patterns import _attention_gradient
from tile_backend.patterns import _attention_math as math_of
from tile_backend.patterns._attention_decode import in_two_steps
from tile_backend.patterns._attention_work import flops

MASKS = "Tensor? mask, Tensor? padding, Tensor? segments, Tensor? offset"
PLACES = "bool is_causal=False, int start=0, int? window=None, int? chunk=None"


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
) -> torch.Tensor:
    """softmax(q @ k^T * scale, masked) @ v.

    q [B, H, S, D], k [B, Hkv, L, D], v [B, Hkv, L, E], H a multiple of Hkv; sinks [H]. Result
    [B, H, S, E] in q's dtype. A key is seen where `_attention_math.seen` and the mask say so; the
    mask broadcasts to [B, H, S, L]: bool, or floating-point and added to the scores.

    fill: None for the softmax of SDPA, in which hidden scores are -inf and a query that sees
    nothing gives 0. Else torch.softmax, and hidden scores are `fill`; a mask that is added says so
    with any value, and a row of -inf gives NaN.
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
    if softcap is not None or sinks is not None or hides:
        given: dict[str, Any] = {
            "mask": mask,
            "scale": scale,
            "softcap": softcap,
            "fill": fill,
            **places,
        }
        return math_of.written_out(q, k, v, sinks, **given)
    simple = is_causal and places == {**dict.fromkeys(places), "is_causal": True, "start": 0}
    visible = None if simple and mask is None else math_of.seen(q, k, **places)
    if visible is not None:
        mask = both(visible, mask)
    result = F.scaled_dot_product_attention(
        *(q, k, v),
        attn_mask=mask,
        is_causal=simple and mask is None,
        scale=scale,
        enable_gqa=bool(q.shape[1] != k.shape[1]),
    )
    if fill is None or mask is None:
        return result
    nothing = (mask == -math.inf).all(-1, keepdim=True)
    factor = torch.ones_like(nothing, dtype=result.dtype).masked_fill(nothing, math.nan)
    return result * factor  # a factor, so that gradients are nan as well


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
    keys = math_of.per_query_head(q, others["k"]).float()
    scale: float = others["scale"]
    return ((slopes @ keys) * scale).to(q.dtype)


def like_projection(x: torch.Tensor) -> torch.Tensor:
    """A tensor of x's shape that lies as [B, S, H, D] does."""
    batch, heads, length, width = x.shape
    return x.new_empty((batch, length, heads, width)).transpose(1, 2)


def attention_grad_kv(dout: torch.Tensor, q: torch.Tensor, **others: Any) -> Any:
    """The gradients of k and v."""
    k, v = others["k"], others["v"]
    weights, slopes = math_of.weights_and_slopes(dout, q, **others)
    of_keys = (slopes.transpose(-1, -2) @ q.float()) * others["scale"]
    of_values = weights.transpose(-1, -2) @ dout.float()
    of_keys, of_values = (math_of.per_key_head(k, x) for x in (of_keys, of_values))
    return of_keys.to(k.dtype), of_values.to(v.dtype)


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


def sizes_of_join(arguments: Mapping[str, Any]) -> dict[str, Any]:
    splits, *queries, _width = arguments["parts"].shape
    return {"splits": splits, "rows": math.prod(queries)}


UNSIZED = ("mask", "padding", "segments", "offset", "sinks", "lse", "delta")
"""Whose last dimension is one of these sizes."""
SIZED: dict[str, Any] = {"sizes": sizes, "unsized": UNSIZED}

GRADIENT = f"(Tensor dout, Tensor q, Tensor k, Tensor v, {MASKS}, Tensor lse, Tensor delta,"
GRADIENT += f" float scale, {PLACES}, float? softcap=None)"

# --- decoding -------------------------------------------------------------------------------------


def attention_split(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, splits: int, **others: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attention` over each of `splits` parts of the keys.

    Results [splits, B, H, S, E] and their log-sum-exp [splits, B, H, S], both float32, the results
    as precise as products of the inputs' dtype are. Which keys a part has is the kernel's choice;
    here the first has all, and the others none.
    """
    first = math_of.written_out(q, k, v, **others).float()
    lse = math_of.log_sum_exp(q, k, **others)
    nothing = first.new_zeros((splits - 1, *first.shape))
    none = lse.new_full((splits - 1, *lse.shape), -math.inf)
    return torch.cat([first[None], nothing]), torch.cat([lse[None], none])


def outputs_of_split(
    q: torch.Tensor, v: torch.Tensor, splits: int, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (splits, *q.shape[:3])
    return (
        q.new_empty((*shape, v.shape[-1]), dtype=torch.float32),
        q.new_empty(shape, dtype=torch.float32),
    )


def attention_join(
    parts: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """The results of all parts as one, in that dtype: sum(part * exp(lse - total lse)).

    parts [P, B, H, S, E], lse [P, B, H, S], sinks [H]. A query that saw nothing gives 0.
    """
    whole = lse
    if sinks is not None:
        whole = torch.cat([lse, sinks.float().reshape(1, 1, -1, 1).expand(1, *lse.shape[1:])])
    total = torch.logsumexp(whole, dim=0)
    shares = torch.exp(lse - total).masked_fill((total == -math.inf), 0.0)
    return (parts * shares[..., None]).sum(0).to(dtype)


def outputs_of_join(parts: torch.Tensor, dtype: torch.dtype, **_: Any) -> torch.Tensor:
    _splits, batch, heads, length, width = parts.shape
    return parts.new_empty((batch, length, heads, width), dtype=dtype).transpose(1, 2)


ATTENTION = (
    f"(Tensor q, Tensor k, Tensor v, {MASKS}, Tensor? sinks, float scale, {PLACES},"
    " float? softcap=None, float? fill=None) -> "
)
SPLIT = (
    f"(Tensor q, Tensor k, Tensor v, {MASKS}, float scale, int splits, {PLACES},"
    " float? softcap=None) -> (Tensor, Tensor)"
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
        steps=in_two_steps,
        stands_for=SDPA,
        flops=flops,
        **SIZED,
    ),
    Op(
        "attention_with_lse",
        f"{ATTENTION}(Tensor, Tensor)",
        attention_with_lse,
        outputs_with_lse,
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
    Op("attention_split", SPLIT, attention_split, outputs_of_split, flops=flops, **SIZED),
    Op(
        "attention_join",
        "(Tensor parts, Tensor lse, Tensor? sinks, ScalarType dtype) -> Tensor",
        attention_join,
        outputs_of_join,
        sizes=sizes_of_join,
        unsized=("lse", "sinks"),
    ),
)
