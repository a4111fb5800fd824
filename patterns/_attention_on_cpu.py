"""Attention on a CPU without the mask that the model wrote: by PyTorch's flash attention there.

That is not the same where numbers are not finite. A mask tensor is added to every score, and NaN at
a key that it hides is NaN in every result: NaN + -inf is NaN, and so is 0 * NaN. With `is_causal`
the kernel skips such keys, and loses NaN at some that are seen. So the norms of the operands are
taken first, which costs little beside the products. Where they do not prove that no score, no
result and no gradient overflows, the same kernel gets the mask, if it is what the model called;
what the model wrote by hand is the op's reference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from tile_backend.patterns import _attention_math as math_of
from tile_backend.patterns._attention_blocks import Block, band, blocks

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LARGEST = torch.finfo(torch.float32).max / 2**10
"""Of the product of all norms and the scale: far from overflow, also of sums of that many terms."""
UNKNOWN = ("mask", "padding", "segments", "offset", "sinks", "softcap", "fill")
"""Arguments that flash attention has no word for."""

Tensors = tuple[torch.Tensor, ...]


def possible(arguments: Mapping[str, Any]) -> bool:
    """Whether flash attention knows what these arguments say, but for the sizes of blocks.

    float16 written out by hand has scores of its own that overflow at 65504. With `is_causal` the
    kernel multiplies its -inf by the scale, which hides a key only if that is above 0.
    """
    if arguments["is_causal"] and not is_above_0(arguments["scale"]):
        return False
    if arguments["start"] != 0 or any(arguments.get(name) is not None for name in UNKNOWN):
        return False
    q, k, v = arguments["q"], arguments["k"], arguments["v"]
    dtype = q.dtype
    if dtype not in DTYPES or k.dtype != dtype or v.dtype != dtype or q.device.type != "cpu":
        return False
    if dtype is torch.float16 and math_of.by_hand(arguments["form"]):
        return False
    width = q.shape[-1]
    return bool(width == k.shape[-1] and width == v.shape[-1])


def is_above_0(scale: Any) -> bool:
    """Not known of a symbol."""
    return isinstance(scale, (int, float)) and scale > 0


def whole(arguments: Mapping[str, Any]) -> bool:
    """Whether it is one block: causal, or everything is seen."""
    return arguments["window"] is None and arguments["chunk"] is None


def forward(**arguments: Any) -> tuple[torch.Tensor] | None:
    """`Op.on_cpu` of attention."""
    found = run(arguments)
    return None if found is None else found[:1]


def with_lse(**arguments: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`Op.on_cpu` of attention_with_lse."""
    found = run(arguments)
    return None if found is None else (found[0], found[1].contiguous())


def run(arguments: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The result, laid out as [B, S, H, E], and its log-sum-exp."""
    parts = cut(arguments)
    if parts is None:
        return None
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    made = calls(parts, arguments)
    found = [flash(*taken, 0.0, causal, **others) for taken, causal, others in made]
    if len(found) == 1:
        return projected(found[0][0]), found[0][1]
    results, sums = zip(*found, strict=True)
    return joined(results), torch.cat(sums, 2)


def gradients(
    dout: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, **arguments: Any
) -> Tensors | None:
    """`Op.on_cpu` of attention_grad: the gradients of q, k and v."""
    parts = cut(arguments, dout)
    if parts is None:
        return None
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    made = []
    for block, (taken, causal, others) in zip(parts, calls(parts, arguments), strict=True):
        rows = slice(block.begin, block.end)
        slope, result, sums = (x[:, :, rows] for x in (*straight(dout, out), lse))
        made.append(backward(slope, *taken, result, sums, 0.0, causal, **others))
    if len(made) == 1:
        return tuple(map(projected, made[0]))
    of_keys = summed(parts, made, arguments["k"], arguments["v"])
    return (joined([dq for dq, _, _ in made]), *map(projected, of_keys))


def projected(x: torch.Tensor) -> torch.Tensor:
    """[B, H, S, D] laid out as [B, S, H, D]."""
    turned = x.transpose(1, 2)
    return x if turned.is_contiguous() else turned.contiguous().transpose(1, 2)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The queries of all blocks, laid out as [B, S, H, D]."""
    return torch.cat([x.transpose(1, 2) for x in parts], 1).transpose(1, 2)


def summed(parts: list[Block], made: list[Tensors], *tensors: torch.Tensor) -> Iterator[Any]:
    """The gradients of keys and values, which several blocks read."""
    for place, tensor in enumerate(tensors, 1):
        total = torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
        for block, gradient in zip(parts, made, strict=True):
            total[:, :, block.first : block.last] += gradient[place]
        yield total.to(tensor.dtype)


def cut(arguments: Mapping[str, Any], *more: torch.Tensor) -> list[Block] | None:
    """The blocks of queries; None where the reference has to run. more: what is multiplied too.

    A block of all queries that has the whole mask where that may show.
    """
    q, k, v = (arguments[name] for name in ("q", "k", "v"))
    if not possible(arguments) or 0 in (*q.shape, *k.shape):
        return None
    every = Block(0, q.shape[2], 0, k.shape[2])
    if arguments["form"] == math_of.SDPA or harmless(arguments["scale"], q, k, v, *more):
        return [every] if whole(arguments) else blocks(arguments)
    masked = not math_of.by_hand(arguments["form"])
    return [dataclasses.replace(every, masked=True)] if masked else None


def calls(
    parts: list[Block], arguments: Mapping[str, Any]
) -> Iterator[tuple[Tensors, bool, dict[str, Any]]]:
    """For each block its q, k and v, is_causal, and the other arguments."""
    q, k, v = straight(arguments["q"], arguments["k"], arguments["v"])
    if len(parts) == 1 and not parts[0].masked:
        yield (q, k, v), arguments["is_causal"], {"scale": arguments["scale"]}
        return
    bands: dict[Any, torch.Tensor] = {}
    for block in parts:
        mask = None
        if block.masked:
            mask = added(arguments)
        elif not block.is_causal:
            if block.kind not in bands:
                bands[block.kind] = band(block, q)
            mask = bands[block.kind]
        rows, keys = slice(block.begin, block.end), slice(block.first, block.last)
        taken = q[:, :, rows], k[:, :, keys], v[:, :, keys]
        yield taken, mask is None, {"attn_mask": mask, "scale": arguments["scale"]}


def added(arguments: Mapping[str, Any]) -> torch.Tensor:
    """What the mask added to the scores; of one of booleans, what SDPA makes of it."""
    q, k = arguments["q"], arguments["k"]
    places = {name: arguments[name] for name in ("is_causal", "window", "chunk")}
    mask: torch.Tensor = q.new_zeros((q.shape[2], k.shape[2]))
    visible = math_of.seen(q, k, **places)
    low = math_of.lowest(arguments["form"], None)
    return mask if visible is None else mask.masked_fill(~visible, low)


def straight(*tensors: torch.Tensor) -> Tensors:
    """With features one after the other, as the kernel reads them."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def harmless(scale: float, *tensors: torch.Tensor) -> bool:
    """Whether nothing that is made of products of these can overflow. NaN and infinity are not."""
    product = max(1.0, abs(scale))
    for tensor in tensors:
        dtype = torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else None
        product *= 1.0 + torch.linalg.vector_norm(tensor, dtype=dtype).item()
    return math.isfinite(product) and product <= LARGEST
