"""Random values for the inputs of a site that is cut out: its real shapes, strides and dtypes.

Floating-point values are any numbers; `make_unusual` puts NaN, infinity and huge numbers among
them. Whole numbers and conditions mean something: the caller's own
are taken. A mask that hides nothing is given padding at its end, so that the claim about masks is
put to the test; every row keeps its first half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from tile_backend.lowering import input_names
from tile_backend.lowering.node import hint, value
from tile_backend.lowering.real_tensors import CannotRun

HUGE, LARGE, ZERO = "huge", "large", "zero"
FINITE = (HUGE, ZERO, LARGE)
"""What a row gets: numbers whose squares overflow, only zeros, or one number all over, of which the
sum of many overflows and that of a few does not, in whatever order.
"""
UNUSUAL = (math.nan, math.inf, -math.inf, *FINITE)
"""Or NaN or infinity in one place."""
PARAMETER_RANK = 2
"""From here on a parameter is a matrix, whose products are to have the size of their operands."""


def values(
    inputs: Sequence[fx.Node],
    given: Mapping[fx.Node, torch.Tensor],
    trains: bool,
    generator: torch.Generator,
) -> list[torch.Tensor]:
    """One tensor for each input, which requires grad where the node's value does and `trains`.

    given: the tensors that the compiled program was called with. Raises CannotRun.
    """
    return [one(node, given.get(node), trains, generator) for node in inputs]


def one(
    node: fx.Node,
    known: torch.Tensor | None,
    trains: bool,
    generator: torch.Generator,
) -> torch.Tensor:
    fake = value(node)
    if not isinstance(fake, torch.Tensor):
        raise CannotRun(f"{input_names.name(node)} is a {type(fake).__name__}")
    if node.op == "get_attr":
        constant: object = node.graph.owning_module
        for name in str(node.target).split("."):
            constant = getattr(constant, name)
        assert isinstance(constant, torch.Tensor)
        return constant.detach().clone()
    shape, strides = [hint(s) for s in fake.shape], [hint(s) for s in fake.stride()]
    span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True) if n)
    if fake.is_floating_point() or fake.is_complex():
        memory = normal(span, fake.dtype, generator)
        if isinstance(known, torch.nn.Parameter) and len(shape) >= PARAMETER_RANK:
            memory /= math.sqrt(max(shape[-1], 1))
        return memory.as_strided(shape, strides).requires_grad_(trains and fake.requires_grad)
    if known is None or list(known.shape) != shape:
        raise CannotRun(
            f"nothing is known of the {str(fake.dtype).removeprefix('torch.')} values of"
            f" {input_names.name(node)}"
        )
    found = padded(known, generator) if hides_nothing(known) else known.detach()
    memory = torch.zeros(span, dtype=fake.dtype, device=generator.device)
    made = memory.as_strided(shape, strides)
    # Elements that share memory, as in an expanded tensor, are written once.
    once = tuple(slice(None) if step else slice(1) for step in strides)
    made[once].copy_(found[once])
    return made


def normal(span: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Numbers around 0 with deviation 1, in a dtype that torch may not draw in."""
    drawn = torch.complex64 if dtype.is_complex else torch.float32
    made = torch.randn(span, dtype=drawn, generator=generator, device=generator.device)
    return made.to(dtype)


def like(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Of the shape and dtype of a tensor: the gradient that a result gets."""
    return normal(tensor.numel(), tensor.dtype, generator).view(tensor.shape)


def make_unusual(
    tensor: torch.Tensor, generator: torch.Generator, kinds: Sequence[float | str] = UNUSUAL
) -> None:
    """Write unusual numbers into it, a kind a row, into rows at random.

    Where there are fewer rows than kinds, the first ones. Of a vector each number is a row.
    """
    rows = tensor.detach()
    while rows.dim() < 2:
        rows = rows.unsqueeze(-1)
    if not rows.stride(-1):  # one number in memory
        rows = rows[..., :1]
    most = torch.finfo(tensor.dtype).max
    drawn = torch.randperm(math.prod(rows.shape[:-1]), generator=generator, device=generator.device)
    for kind, number in zip(kinds, drawn.tolist() if rows.numel() else (), strict=False):
        row, place = rows, number
        while row.dim() > 1:
            place, at = divmod(place, row.shape[0])
            row = row[at]
        if kind == HUGE:
            row.mul_(most**0.5 * 2)
        elif kind in (ZERO, LARGE):
            row.fill_(most / 64 if kind == LARGE else 0.0)
        else:
            row[number % len(row)] = float(kind)


def hides_nothing(mask: torch.Tensor) -> bool:
    """Ones only, in rows of several: what a mask of padding is without any."""
    return mask.dim() > 0 and mask.shape[-1] > 1 and bool((mask == 1).all())


def padded(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The same with its end hidden, in each row from another place in the second half on."""
    length = mask.shape[-1]
    drawn = torch.rand(mask.shape[:-1], generator=generator, device=generator.device)
    kept = ((length + 1) // 2 + drawn * (length // 2 + 1)).long()
    places = torch.arange(length, device=generator.device)
    return (places < kept[..., None]).to(mask.dtype)
