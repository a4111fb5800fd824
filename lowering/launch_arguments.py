"""The arguments of a kernel from those of its op, as a function made once per kind of call.

Where a kernel takes tensors as the op has them, they are picked out. Where it takes views, those
are remembered by the addresses of the tensors: a model mostly meets the same addresses in every
step, and two views cost as much as a launch. What is remembered holds no memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from tile_backend.lowering.launch_recipe import Recipe, View
from tile_backend.lowering.raw_tensors import borrowed

Picker = Callable[[tuple[Any, ...]], tuple[Any, ...]]
REMEMBERED = 512
"""Sets of addresses per kind of call: some hundred layers, each with buffers of its own."""
MOST_MISSES = 8 * REMEMBERED
"""After that many, addresses are taken never to come back, and nothing more is remembered."""


def picker(places: Iterable[int]) -> Picker:
    """values -> the values at these places, as a tuple."""
    places = tuple(places)
    if len(places) > 1:
        return operator.itemgetter(*places)
    return lambda values: tuple(values[i] for i in places)


def arguments(recipe: Recipe, values: tuple[Any, ...]) -> Picker:
    """What makes the kernel's arguments of an op's tensors, for calls of one kind.

    values: of one such call; all of them have the same numbers.
    """
    count = sum(isinstance(p, View) for p in recipe.parameters)
    views, numbers = recipe.parameters[:count], recipe.parameters[count:]
    if not all(isinstance(view, View) for view in views):
        raise RuntimeError(f"{recipe.kernel.name} has an array parameter after a number")
    places = [i for i, value in enumerate(values) if isinstance(value, torch.Tensor)]
    views = tuple(view._replace(source=places.index(view.source)) for view in views)
    if not all(view.same for view in views):
        return remembered(views, numbers)
    if [view.source for view in views] == list(range(len(places))):
        return lambda tensors: tensors + numbers
    arrays = picker(view.source for view in views)
    return lambda tensors: arrays(tensors) + numbers


def remembered(views: Sequence[View], numbers: tuple[Any, ...]) -> Picker:
    """The views, made anew only where the tensors lie at addresses not met before; the numbers."""
    address = torch.Tensor.data_ptr
    known: dict[tuple[int, ...], tuple[Any, ...]] = {}
    misses = 0

    def passed(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal misses
        addresses = tuple(map(address, tensors))
        found = known.get(addresses)
        if found is not None:
            return found
        made = tuple([view.of(tensors) for view in views])
        if misses < MOST_MISSES:
            misses += 1
            if len(known) == REMEMBERED:
                known.clear()
            known[addresses] = (*map(borrowed, made), *numbers)
        return made + numbers

    return passed
