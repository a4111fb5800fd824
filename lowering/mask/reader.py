"""Formulas for the nodes of a graph: by the words that are registered, else as reads.

Every formula is made when it is asked for, and remembered by node and indices. A word that cannot
explain an element raises NotExplained, and that element is then a read of its tensor. What the
graph writes to is never explained, but where it is a view of something else; it is read at the time
of the node that reads it. Inside a vmap there is nothing that could be read: what leaves it is. An
input of a body is what the call outside gives for it, as that call finds it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch import fx

from tile_backend.lowering.effects import Effects, storages, unwrapped
from tile_backend.lowering.mask import along, batching, constants, elements, values, views
from tile_backend.lowering.mask.elements import Elements, Indices, NotExplained
from tile_backend.lowering.mask.moments import Read, is_reshaped
from tile_backend.lowering.mask.words import WORDS
from tile_backend.lowering.node import shape, size, value
from tile_backend.lowering.uses import values_read

REGISTERED = (along, batching, constants, values, views)
"""Imported for the words that they register."""
MOST_STEPS = 4000
"""Elements made for one mask; the masks of Transformers take some hundred."""


class GaveUpError(Exception):
    """A mask takes more steps than MOST_STEPS, is written to, or reads what changes its shape."""


@dataclasses.dataclass(frozen=True)
class Outside:
    """Where a body is called: the formulas of that graph, and the operand for each known input."""

    reader: Reader
    call: fx.Node
    operands: Mapping[fx.Node, fx.Node]


class Reader:
    """Formulas of one graph. reads: the tensors that formulas read, by name.

    outside: the call by which the graph is entered; its own inputs are unknown without.
    """

    def __init__(self, effects: Effects, outside: Outside | None = None) -> None:
        self.effects = effects
        self.outside = outside
        self.depth: int = 0 if outside is None else outside.reader.depth + 1
        self.reads: ChainMap[str, Read] = (
            ChainMap() if outside is None else outside.reader.reads.new_child()
        )
        self.steps = 0
        self._known: dict[tuple[fx.Node, int | None], Elements] = {}

    @property
    def trains(self) -> bool:
        """Whether some value has a gradient, here or outside."""
        return self.effects.trains or (self.outside is not None and self.outside.reader.trains)

    def begin(self) -> None:
        """Counts the steps of another mask."""
        self.steps = 0
        if self.outside is not None:
            self.outside.reader.begin()

    def of(self, node: fx.Node) -> Reader:
        """The reader of the node's graph: this one, or one outside."""
        inside = self.outside is None or node in self.effects.position
        return self if inside or self.outside is None else self.outside.reader.of(node)

    def origins(self, node: fx.Node) -> tuple[Any, ...]:
        """What a formula of the node can depend on outside, and when: equal for equal calls."""
        if self.outside is None:
            return (node,)
        found, todo = {node: None}, [node]
        for known in todo:
            todo += (source for source in values_read(known) if source not in found)
            found |= dict.fromkeys(values_read(known))
        outer, call = self.outside.reader, self.outside.call
        given = [self.outside.operands[n] for n in found if n in self.outside.operands]
        when = (call,) if any(operand in outer.effects.volatile for operand in given) else ()
        return when + tuple(origin for operand in given for origin in outer.origins(operand))

    def elements(self, node: fx.Node, reader: fx.Node | None = None) -> Elements:
        """Of a node that is a tensor, as the reader finds it. Raises GaveUpError."""
        when = None
        if node in self.effects.volatile and is_reshaped(self.effects, node):
            raise GaveUpError(f"{node.name} changes its shape")  # and its fake value has another
        if reader is not None and node in self.effects.volatile:
            when = self.effects.version(node, reader)
        if (node, when) not in self._known:
            self._known[node, when] = self._remembered(node, reader, when)
        return self._known[node, when]

    def _remembered(self, node: fx.Node, reader: fx.Node | None, when: int | None) -> Elements:
        fake = value(node)
        if node not in self.effects.volatile:
            found = self._explained(node, fake, node)
        else:
            found = self._explained(node, fake, reader) if is_view(node) else None
        name = node.name + "^" * self.depth + (f"@{when}" if when else "")
        read = elements.opaque(name, fake.dtype)
        made: dict[Indices, Any] = {}

        def unexplained(indices: Indices) -> Any:
            if unwrapped(fake) is not fake:
                raise NotExplained
            if node in self.effects.volatile and reader is None:
                raise GaveUpError(f"{node.name} is written to")
            taken = Read(node, None if when is None else reader)
            self.reads.setdefault(name, taken)
            return read(indices)

        def at(indices: Indices) -> Any:
            if indices not in made:
                self.steps += 1
                if self.steps > MOST_STEPS:
                    raise GaveUpError("its formula is too long")
                made[indices] = element(found, unexplained, indices)
            return made[indices]

        return Elements(shape(fake), fake.dtype, at)

    def _explained(
        self, node: fx.Node, fake: torch.Tensor, reader: fx.Node | None
    ) -> Elements | None:
        """By the word for what the node calls; None where there is none or it does not fit."""
        if self.outside is not None and node in self.outside.operands:
            return self.outside.reader.elements(self.outside.operands[node], self.outside.call)
        if node.op not in ("call_function", "call_method"):
            return None
        found = WORDS.get(node.target)
        if found is None:
            return None
        args = node.args
        if node.target in (batching.ADD, batching.REMOVE):
            place = 2 if node.target is batching.ADD else 1
            args = (*args[:place], self._vmaps.get(node), *args[place + 1 :])
        try:
            made = found(fake, *self._read(args, reader), **self._read(node.kwargs, reader))
        except (TypeError, NotExplained):  # other arguments than the word knows
            return None
        return made if made is not None and len(made.shape) == fake.dim() else None

    @functools.cached_property
    def _vmaps(self) -> dict[fx.Node, sympy.Symbol]:
        return batching.symbols(self.effects)

    def _read(self, argument: Any, reader: fx.Node | None) -> Any:
        """Tensors as elements, sizes as expressions, containers element by element."""
        if isinstance(argument, fx.Node):
            known = value(argument)
            if isinstance(known, torch.Tensor):
                return self.elements(argument, reader)
            if isinstance(known, torch.SymInt):
                return sympy.sympify(size(known), strict=True)
            if isinstance(known, (int, float, torch.dtype, torch.device)):
                return known
            raise NotExplained
        if isinstance(argument, dict):
            return {name: self._read(part, reader) for name, part in argument.items()}
        if isinstance(argument, (tuple, list)):
            return tuple(self._read(part, reader) for part in argument)
        if isinstance(argument, slice):
            parts = (argument.start, argument.stop, argument.step)
            return slice(*(self._read(part, reader) for part in parts))
        return argument


def element(found: Elements | None, unexplained: Any, indices: Indices) -> Any:
    """Explained where it can be."""
    if found is not None:
        try:
            return found.at(indices)
        except NotExplained:
            pass
    return unexplained(indices)


def is_view(node: fx.Node) -> bool:
    """Whether the node's value is memory of its first argument, the only tensor it is made of."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or node.all_input_nodes.count(source) != 1:
        return False
    if not all(isinstance(value(n), torch.Tensor) is (n is source) for n in node.all_input_nodes):
        return False
    same = value(source).dtype is value(node).dtype
    return same and bool(set(storages(source)) & set(storages(node)))
