"""A tensor operand that is no operand of the match: read from the graph where a mask reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx


@dataclasses.dataclass(frozen=True)
class Source:
    """view(value of node, values of others).

    before: the node in front of which the value is taken, since the program writes to it later;
    None: any place.
    """

    node: fx.Node
    view: Callable[..., Any]
    before: fx.Node | None = None
    others: tuple[fx.Node, ...] = ()

    def made(self, leaf: Callable[[fx.Node], Any]) -> Any:
        """On fake values or proxies, whatever `leaf` gives for the nodes."""
        return self.view(leaf(self.node), *map(leaf, self.others))


def split(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Source]]:
    """Arguments that are sources, and all others."""
    sources = {name: given for name, given in arguments.items() if isinstance(given, Source)}
    return {n: given for n, given in arguments.items() if n not in sources}, sources
