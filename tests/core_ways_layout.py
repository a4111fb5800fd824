"""Other ways to move data and to call whole layers; see core_ways for the form of the functions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tests.core_ways import Way


def swaps(result: torch.Tensor, a: Any, first: int, second: int) -> list[Way]:
    rank = a.dim()
    x, y = first % rank, second % rank
    order = list(range(rank))
    order[x], order[y] = y, x
    ways: list[Way] = [
        lambda a, *d: a.transpose(y, x),
        lambda a, *d: a.swapaxes(x - rank, y - rank),
        lambda a, *d: torch.swapdims(a, x, y),
        lambda a, *d: a.permute(*order),
        lambda a, *d: torch.permute(a, tuple(order)),
        lambda a, *d: a.transpose(x, y).contiguous(),
    ]
    if abs(x - y) == 1:
        ways += [lambda a, *d: a.movedim(x, y), lambda a, *d: torch.moveaxis(a, y, x)]
    return ways


def products(result: torch.Tensor, a: Any, b: Any) -> list[Way]:
    ways: list[Way] = [torch.matmul, lambda a, b: a @ b, lambda a, b: a.matmul(b)]
    if a.dim() == b.dim() == 4:
        ways += [
            lambda a, b: torch.einsum("bhij,bhjk->bhik", a, b),
            lambda a, b: torch.einsum("b h i j, b h k j -> b h i k", a, b.transpose(-1, -2)),
        ]
    return ways


def softmaxes(result: torch.Tensor, a: Any, *_: Any, **__: Any) -> list[Way]:
    rank, dtype = a.dim(), result.dtype
    ways: list[Way] = [
        lambda a, *r, **k: F.softmax(a, -1),
        lambda a, *r, **k: F.softmax(a, dim=rank - 1),
        lambda a, *r, **k: torch.softmax(a, dim=-1),
        lambda a, *r, **k: a.softmax(-1),
        lambda a, *r, **k: a.softmax(dim=-1),
        lambda a, *r, **k: F.softmax(a.float(), dim=-1).to(dtype),
        lambda a, *r, **k: F.softmax(a, dim=-1, dtype=torch.float32).to(dtype),
    ]
    return ways if a.dtype == dtype else []


def repeats(result: torch.Tensor, a: Any, count: int, dim: int) -> list[Way]:
    batch, heads, *rest = a.shape
    if dim != 1:
        return []
    wide, merged = (batch, heads, count, *rest), (batch, heads * count, *rest)
    return [
        lambda a, *r: torch.repeat_interleave(a, count, 1),
        lambda a, *r: a.repeat_interleave(count, dim=-3),
        lambda a, *r: torch.repeat_interleave(a, dim=1, repeats=count),
        lambda a, *r: a[:, :, None, :, :].expand(*wide).reshape(*merged),
        lambda a, *r: a.unsqueeze(2).expand(-1, -1, count, -1, -1).flatten(1, 2),
        lambda a, *r: a[:, :, None].expand(wide).reshape(merged),
        lambda a, *r: a.transpose(1, 2).repeat_interleave(count, 2).transpose(1, 2),
        lambda a, *r: torch.stack([a] * count, 2).reshape(merged),
        lambda a, *r: a[:, :, None].repeat(1, 1, count, 1, 1).view(merged),
    ]


def joins(result: torch.Tensor, parts: Any, dim: int = 0) -> list[Way]:
    rank = result.dim()
    return [
        lambda p, *d, **k: torch.concat(p, dim=dim),
        lambda p, *d, **k: torch.concatenate(p, dim % rank),
        lambda p, *d, **k: torch.cat(list(p), dim % rank - rank),
    ]


def stacks(result: torch.Tensor, parts: Any, dim: int = 0) -> list[Way]:
    if dim != -1:
        return []
    return [
        lambda p, *d, **k: torch.cat([one[..., None] for one in p], -1),
        lambda p, *d, **k: torch.cat([one.unsqueeze(-1) for one in p], dim=-1),
        lambda p, *d, **k: torch.stack(list(p), dim=result.dim() - 1),
    ]


def flattenings(result: torch.Tensor, a: Any, *_: Any, **__: Any) -> list[Way]:
    shape = tuple(result.shape)
    return [
        lambda a, *r, **k: a.reshape(shape),
        lambda a, *r, **k: a.view(*shape[:-1], -1),
        lambda a, *r, **k: torch.reshape(a, shape),
        lambda a, *r, **k: torch.flatten(a, start_dim=len(shape) - 1),
    ]


def pieces(result: torch.Tensor, a: Any, index: Any) -> list[Way]:
    """x[..., start:stop] and x[..., start::2] along the last dimension."""
    if not isinstance(a, torch.Tensor) or not isinstance(index, tuple) or len(index) != 2:
        return []
    if index[0] is not Ellipsis or not isinstance(index[1], slice):
        return []
    width, part = a.shape[-1], index[1]
    start, stop, step = part.indices(width)
    if step == 2 and width % 2 == 0 and stop == width:
        return [
            lambda a, i: a.unflatten(-1, (-1, 2))[..., start],
            lambda a, i: a.reshape(*result.shape, 2).unbind(-1)[start],
            lambda a, i: a.unflatten(-1, (-1, 2)).select(-1, start),
        ]
    size, rank = stop - start, a.dim()
    if step != 1 or size <= 0:
        return []
    ways: list[Way] = [
        lambda a, i: a.narrow(-1, start, size),
        lambda a, i: torch.narrow(a, rank - 1, start, size),
        lambda a, i: a[..., start:stop],
        lambda a, i: a[..., start - width : stop if stop < width else None],
    ]
    if 2 * size == width and start in (0, size):
        half = start // size
        ways += [
            lambda a, i: a.chunk(2, dim=-1)[half],
            lambda a, i: torch.chunk(a, 2, -1)[half],
            lambda a, i: a.split(size, -1)[half],
            lambda a, i: torch.split(a, [size, size], dim=-1)[half],
            lambda a, i: a.tensor_split(2, -1)[half],
            lambda a, i: a.unflatten(-1, (2, -1))[..., half, :],
            lambda a, i: a.reshape(*result.shape[:-1], 2, size).unbind(-2)[half],
        ]
    return ways


def layer_norms(
    result: torch.Tensor, x: Any, shape: Any, weight: Any, bias: Any, eps: float
) -> list[Way]:
    size = x.shape[-1]
    return [
        lambda x, s, w, b, e: torch.layer_norm(x, (size,), w, b, eps),
        lambda x, s, w, b, e: F.layer_norm(x, [size], bias=b, weight=w, eps=eps),
        lambda x, s, w, b, e: F.layer_norm(input=x, normalized_shape=s, weight=w, bias=b, eps=e),
    ]


def rms_norms(result: torch.Tensor, x: Any, shape: Any, weight: Any, eps: float) -> list[Way]:
    size = x.shape[-1]
    return [
        lambda x, s, w, e: torch.rms_norm(x, (size,), w, eps),
        lambda x, s, w, e: F.rms_norm(x, [size], eps=eps, weight=w),
    ]


def attentions(
    result: torch.Tensor,
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> list[Way]:
    def positional(q: Any, k: Any, v: Any, attn_mask: Any = None, **_: Any) -> Any:
        flags = {"scale": scale, "enable_gqa": enable_gqa}
        return F.scaled_dot_product_attention(q, k, v, attn_mask, 0.0, is_causal, **flags)

    def named(q: Any, k: Any, v: Any, **others: Any) -> Any:
        return F.scaled_dot_product_attention(value=v, key=k, query=q, dropout_p=0.0, **others)

    return [positional, named]
