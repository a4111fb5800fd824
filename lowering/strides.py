"""A result in the strides that the model has, on which its user and views downstream may rely.

Also in dimensions of one element, and of tensors without elements, where strides say nothing of
memory: `stride()`, and libraries that a tensor is handed to, see them. These are changed by views,
which cost nothing; only another order in memory takes a copy. The strides that a model has are
those of its fake tensors. (With one query, torch's fake scaled_dot_product_attention has another
stride in that dimension than the real one has.) All of it is worked out on numbers and symbols, and
adds no guard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import Max

from tile_backend.lowering import shapes
from tile_backend.lowering.node import Size, hint, shape, strides

Way = Callable[[Any], Any]
Sizes = tuple[Size, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory. order: its dimensions, the outermost first."""

    sizes: Sizes
    strides: Sizes
    order: tuple[int, ...]


def layout(result: torch.Tensor) -> Layout:
    """Of a fake tensor."""
    order = sorted(range(result.dim()), key=lambda d: (-hint(result.stride(d)), d))
    return Layout(shape(result), distances(result), tuple(order))


def distances(tensor: torch.Tensor) -> Sizes:
    """Its strides; torch has `Max(1, size)` in them where a size may be 0, and then none counts."""
    return tuple(map(without_floor, strides(tensor)))


def without_floor(stride: Size) -> Size:
    if isinstance(stride, int):
        return stride
    found = stride.replace(
        lambda part: isinstance(part, (Max, sympy.Max)) and 1 in part.args,
        lambda part: part.func(*(other for other in part.args if other != 1)),
    )
    return int(found) if found.is_Integer else found


def same_layout(old: torch.Tensor, new: torch.Tensor) -> bool:
    """Equal strides wherever elements depend on them. The shapes are the same."""
    return same_elements(shape(old), distances(old), distances(new))


def same_elements(sizes: Sizes, a: Sizes, b: Sizes) -> bool:
    """Whether two sets of strides put the same elements in the same places."""
    known = zip(sizes, a, b, strict=True)
    return 0 in sizes or all(n == 1 or shapes.same(x, y) for n, x, y in known)


def way_to(wanted: Layout, had: Layout) -> Way | None:
    """What makes a tensor lie as wanted: runs on tensors and on proxies.

    None where no view and no copy does: what is wanted has gaps, or elements that share memory.
    """
    view = viewed(wanted.sizes, wanted.strides, had.strides)
    if view is not None:
        return view
    copy = copied(wanted.sizes, wanted.order)
    after = viewed(wanted.sizes, wanted.strides, dense(wanted.sizes, wanted.order))
    return None if after is None else lambda x: after(copy(x))


def viewed(sizes: Sizes, wanted: Sizes, had: Sizes) -> Way | None:
    """A view with the strides wanted, where they mean the same elements."""
    if shapes.equal(wanted, had):
        return lambda x: x
    if not same_elements(sizes, wanted, had):
        return None
    ones = [d for d, size in enumerate(sizes) if size == 1 and not shapes.same(wanted[d], had[d])]
    others = [d for d in range(len(sizes)) if d not in ones]
    if all(shapes.same(wanted[d], had[d]) for d in others):
        found = with_ones(ones, others, sizes, wanted)
        if found is not None:
            return found
    if all(isinstance(number, int) for number in (*sizes, *wanted)):
        return lambda x: x.as_strided(sizes, wanted)
    return None


def with_ones(ones: list[int], others: list[int], sizes: Sizes, wanted: Sizes) -> Way | None:
    """Dimensions of one element taken out, and put back where their strides are those wanted."""
    here, left, places = list(others), list(ones), list[int]()
    while left:
        fitting = ((d, place) for d in left for place in places_of(d, here, sizes, wanted))
        found = next(fitting, None)
        if found is None:
            return None
        dimension, place = found
        left.remove(dimension)
        here.insert(place, dimension)
        places.append(place)
    back = [here.index(d) for d in range(len(sizes))]

    def way(x: Any) -> Any:
        found = x.squeeze(tuple(ones))
        for place in places:
            found = found.unsqueeze(place)
        return found if back == sorted(back) else found.permute(back)

    return way


def places_of(dimension: int, here: Sequence[int], sizes: Sizes, wanted: Sizes) -> Iterator[int]:
    """Where among the dimensions that are there one of size 1 gets the stride wanted of it.

    In front of another it gets the size times the stride of that, at the end 1.
    """
    for place, other in enumerate(here):
        if shapes.same(wanted[dimension], sizes[other] * wanted[other]):
            yield place
    if wanted[dimension] == 1:
        yield len(here)


def copied(sizes: Sizes, order: Sequence[int]) -> Way:
    """A dense copy whose dimensions lie in memory in that order."""
    inverse = [order.index(d) for d in range(len(order))]

    def contiguous(x: Any) -> Any:
        if 0 in sizes:  # contiguous in any strides, and copied at no cost
            return x.clone(memory_format=torch.contiguous_format)
        return x.contiguous()

    if list(order) == sorted(order):
        return contiguous
    return lambda x: contiguous(x.permute(order)).permute(inverse)


def dense(sizes: Sequence[Size], order: Sequence[int]) -> Sizes:
    """The strides of a tensor without gaps whose dimensions lie in that order."""
    found: dict[int, Size] = {}
    span: Size = 1
    for dimension in reversed(order):
        found[dimension] = span
        size = sizes[dimension]
        span = span if isinstance(size, int) and size == 0 else span * size
    return tuple(found[d] for d in range(len(sizes)))


@dataclasses.dataclass(frozen=True)
class Promise:
    """`Op.outputs`, with strides that fake tensors and real ones agree about.

    torch's own `empty_like` gives a dimension of one element one stride on a fake and another on a
    CPU, and what is planned with the one must be what is computed with the other.
    """

    outputs: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self.outputs(*args, **kwargs)
        return tuple(map(settled, made)) if isinstance(made, (tuple, list)) else settled(made)


def settled(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that was just made, in which one element is as far as all that follows is long."""
    sizes, known = tuple(tensor.shape), list(tensor.stride())
    numbers = [size if isinstance(size, int) else None for size in sizes]  # no symbol is 0 or 1
    if 0 in numbers:
        known = list(dense(sizes, range(len(sizes))))
        return tensor if None in numbers else tensor.as_strided(sizes, known)
    if 1 not in numbers:
        return tensor
    behind = 1
    for dimension in reversed(range(len(sizes))):
        if numbers[dimension] == 1:
            known[dimension] = behind
        behind = sizes[dimension] * known[dimension]
    return tensor.as_strided(sizes, known)
