"""Arithmetic on shapes of ints and sympy expressions. Never adds a guard: unknown is False."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sympy

from tile_backend.lowering.node import Size

Shape = tuple[Size, ...]


def same(a: Size, b: Size) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(a == b) or bool(sympy.expand(a - b) == 0)


def equal(a: Sequence[Size], b: Sequence[Size]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def broadcast(shapes: Iterable[Shape]) -> Shape | None:
    """The broadcast shape, or None where it cannot be told."""
    known = list(shapes)
    rank = max((len(s) for s in known), default=0)
    result: list[Size] = []
    for back in range(rank, 0, -1):
        sizes = [s[-back] for s in known if len(s) >= back and s[-back] != 1]
        if any(not same(size, sizes[0]) for size in sizes[1:]):
            return None
        result.append(sizes[0] if sizes else 1)
    return tuple(result)


def adds_leading_ones(before: Shape, after: Shape) -> bool:
    extra = len(after) - len(before)
    return extra > 0 and all(s == 1 for s in after[:extra]) and equal(before, after[extra:])


def product(sizes: Iterable[Size]) -> Size:
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def splits_last(before: Shape, after: Shape) -> bool:
    """[..., a * b] -> [..., a, b]"""
    return (
        len(after) == len(before) + 1
        and equal(before[:-1], after[:-2])
        and same(product(after[-2:]), before[-1])
    )


def merges_last(before: Shape, after: Shape) -> bool:
    """[..., a, b] -> [..., a * b]"""
    return splits_last(after, before)
