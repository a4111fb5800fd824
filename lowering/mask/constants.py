"""Words that make tensors: positions, numbers; and casts of them."""

from __future__ import annotations

from typing import Any

import torch

from tile_backend.lowering.mask import elements
from tile_backend.lowering.mask.elements import Elements
from tile_backend.lowering.mask.words import (
    elementwise,
    is_integer,
    word,
)
from tile_backend.lowering.node import shape


@word(torch.arange)
def arange(fake: Any, *bounds: Any, start: Any = 0, step: Any = 1, **_: Any) -> Any:
    begin = bounds[0] if len(bounds) > 1 else start
    step = bounds[2] if len(bounds) > 2 else step
    if fake.dtype not in elements.WIDE or not all(map(is_integer, (begin, step))):
        return None
    return Elements(shape(fake), fake.dtype, lambda i: begin + step * i[0])


@word(torch.ones, torch.ones_like, "new_ones")
def ones(fake: Any, *_: Any, **__: Any) -> Any:
    return elements.constant(1, fake.dtype, shape(fake))


@word(torch.zeros, torch.zeros_like, "new_zeros")
def zeros(fake: Any, *_: Any, **__: Any) -> Any:
    return elements.constant(0, fake.dtype, shape(fake))


@word(torch.full, torch.full_like, "new_full")
def full(fake: Any, *args: Any, fill_value: Any = None, **__: Any) -> Any:
    given = args[-1] if fill_value is None else fill_value
    return (
        None
        if isinstance(given, (Elements, tuple))
        else elements.constant(given, fake.dtype, shape(fake))
    )


@word(torch.tensor, torch.scalar_tensor)
def scalar(fake: Any, given: Any, **_: Any) -> Any:
    return elements.constant(given, fake.dtype, ()) if not shape(fake) else None


@word("to", "type", "bool", "int", "long", "float", "half", "bfloat16", "type_as")
@word("contiguous", "clone", "detach", torch.clone, torch.detach)
def cast(fake: Any, input: Any, *_: Any, **__: Any) -> Any:
    """The dtype is the result's; devices and memory formats change no element."""
    return elementwise(fake, fake.dtype, lambda a: a, input)
