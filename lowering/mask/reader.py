"""Formulas for the nodes of a graph: by the words that are registered, else as reads.

Every formula is made when it is asked for, and remembered by node and indices. A word that cannot
explain an element raises NotExplained, and that element is then a read of its tensor.
"""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx

from tile_backend.lowering.effects import Effects
from tile_backend.lowering.mask import along, constants, elements, values, views
from tile_backend.lowering.mask.elements import Elements, Indices, NotExplained
from tile_backend.lowering.mask.words import WORDS
from tile_backend.lowering.node import shape, size, value

REGISTERED = (along, constants, values, views)
"""Imported for the words that they register."""
MOST_STEPS = 4000
"""Elements made for one mask; the masks of Transformers take some hundred."""


class GaveUpError(Exception):
    """A mask takes more steps than MOST_STEPS, or reads what is written to."""


class Reader:
    """Formulas of one graph. reads: the tensors that formulas read, by name."""

    def __init__(self, effects: Effects) -> None:
        self.effects = effects
        self.reads: dict[str, fx.Node] = {}
        self.steps = 0
        self._known: dict[fx.Node, Elements] = {}

    def elements(self, node: fx.Node) -> Elements:
        """Of a node that is a tensor."""
        if node not in self._known:
            self._known[node] = self._remembered(node)
        return self._known[node]

    def _remembered(self, node: fx.Node) -> Elements:
        fake = value(node)
        found = self._explained(node, fake)
        read = elements.opaque(node.name, fake.dtype)
        made: dict[Indices, Any] = {}

        def at(indices: Indices) -> Any:
            if indices not in made:
                self.steps += 1
                if self.steps > MOST_STEPS:
                    raise GaveUpError("its formula is too long")
                made[indices] = self._element(node, found, read, indices)
            return made[indices]

        return Elements(shape(fake), fake.dtype, at)

    def _element(self, node: fx.Node, found: Elements | None, read: Any, indices: Indices) -> Any:
        if found is not None:
            try:
                return found.at(indices)
            except NotExplained:
                pass
        if node in self.effects.volatile:
            raise GaveUpError(f"{node.name} is written to")
        self.reads[node.name] = node
        return read(indices)

    def _explained(self, node: fx.Node, fake: torch.Tensor) -> Elements | None:
        """By the word for what the node calls; None where there is none or it does not fit."""
        if node.op not in ("call_function", "call_method") or node in self.effects.volatile:
            return None
        found = WORDS.get(node.target)
        if found is None:
            return None
        try:
            made = found(fake, *self._read(node.args), **self._read(node.kwargs))
        except (TypeError, NotExplained):  # other arguments than the word knows
            return None
        return made if made is not None and len(made.shape) == fake.dim() else None

    def _read(self, argument: Any) -> Any:
        """Tensors as elements, sizes as expressions, containers element by element."""
        if isinstance(argument, fx.Node):
            known = value(argument)
            if isinstance(known, torch.Tensor):
                return self.elements(argument)
            if isinstance(known, torch.SymInt):
                return sympy.sympify(size(known))
            if isinstance(known, (int, float, torch.dtype, torch.device)):
                return known
            raise NotExplained
        if isinstance(argument, dict):
            return {name: self._read(part) for name, part in argument.items()}
        if isinstance(argument, (tuple, list)):
            return tuple(self._read(part) for part in argument)
        if isinstance(argument, slice):
            return slice(*map(self._read, (argument.start, argument.stop, argument.step)))
        return argument
