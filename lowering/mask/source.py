"""A tensor operand that is no operand of the match: read from the graph where a mask reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx


@dataclasses.dataclass(frozen=True)
class Source:
    """view(value of node). before: the node in front of which the value is taken; None: any place.

    A value that the program writes to later has to be taken before that.
    """

    node: fx.Node
    view: Callable[[Any], Any]
    before: fx.Node | None = None

    def made(self, leaf: Callable[[fx.Node], Any]) -> Any:
        """On a fake tensor or a proxy, whatever `leaf` gives for the node."""
        return self.view(leaf(self.node))


def split(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Source]]:
    """Arguments that are sources, and all others."""
    sources = {name: given for name, given in arguments.items() if isinstance(given, Source)}
    return {n: given for n, given in arguments.items() if n not in sources}, sources
