"""Words for torch.vmap: a batched tensor's element has one more index, a symbol of its vmap.

Adding the batch dimension puts the symbol in the place of the dimension's index, and removing it
puts the index back in the place of the symbol. Shapes are those that the mapped function sees.
"""

from __future__ import annotations

from typing import Any

import sympy
from torch import fx
from torch._functorch import predispatch

from tile_backend.lowering.effects import Effects
from tile_backend.lowering.mask.elements import Cases, Elements, Indices, NotExplained
from tile_backend.lowering.mask.words import word
from tile_backend.lowering.node import called_name, shape

ADD, REMOVE = predispatch._add_batch_dim, predispatch._remove_batch_dim


def symbols(effects: Effects) -> dict[fx.Node, sympy.Symbol]:
    """By the nodes that add and remove a batch dimension: the symbol of their vmap."""
    found: dict[fx.Node, sympy.Symbol] = {}
    open_ones: list[tuple[sympy.Symbol, set[Any]]] = []
    for node in effects.position:
        name = called_name(node)
        if name.endswith("_increment_nesting"):
            open_ones.append((sympy.Dummy(node.name, integer=True, nonnegative=True), set()))
        elif name.endswith("_decrement_nesting") and open_ones:
            open_ones.pop()
        elif node.target in (ADD, REMOVE) and open_ones:
            symbol, levels = open_ones[-1]
            levels.add(node.args[2] if node.target is ADD else node.args[1])
            if len(levels) == 1:  # else it is not the vmap that is being built or left
                found[node] = symbol
    return found


@word(ADD)
def batched(fake: Any, input: Any, place: Any, symbol: Any) -> Any:
    """symbol: stands where the graph has a number for the level."""
    place = place % len(input.shape)
    if not isinstance(symbol, sympy.Dummy):
        return None

    def at(indices: Indices) -> Any:
        return input.at((*indices[:place], symbol, *indices[place:]))

    return Elements(shape(fake), fake.dtype, at)


@word(REMOVE)
def unbatched(fake: Any, input: Any, symbol: Any, size: Any, place: Any) -> Any:
    """An input that has no such dimension is the same at each of its indices."""
    place = place % len(fake.shape)
    if not isinstance(symbol, sympy.Dummy):
        return None

    def at(indices: Indices) -> Any:
        if any(symbol in index.free_symbols for index in indices):
            raise NotExplained
        given = {symbol: indices[place]}
        element = input.at((*indices[:place], *indices[place + 1 :]))
        if isinstance(element, Cases):
            return Cases(tuple((n, when.xreplace(given)) for n, when in element.choices))
        return element.xreplace(given)

    return Elements(shape(fake), fake.dtype, at)
