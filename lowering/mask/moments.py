"""When a tensor that the graph writes to is read: two reads of one value are one read.

A read is made by a node, and sees what all writes before that node have left. Writes are those to
the storage, through whatever view.
"""

from __future__ import annotations

import dataclasses

from torch import fx

from tile_backend.lowering import input_names
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.node import called_name
from tile_backend.lowering.writes import flat

RESHAPING = frozenset(
    (
        "as_strided_",
        "rename_",
        "resize_",
        "resize_as_",
        "set_",
        "squeeze_",
        "swapaxes_",
        "swapdims_",
        "t_",
        "transpose_",
        "unsqueeze_",
    )
)
"""They give the tensor itself another shape: an index does not mean one element for long."""


@dataclasses.dataclass(frozen=True)
class Read:
    """A tensor that a formula reads.

    before: the node in front of which its value must be taken; None where it is never written to.
    """

    node: fx.Node
    before: fx.Node | None = None

    def __str__(self) -> str:
        return input_names.name(self.node)


def is_reshaped(effects: Effects, node: fx.Node) -> bool:
    """Whether something may give the node's tensor another shape in place."""
    return any(
        called_name(writer) in RESHAPING or flat(writer.kwargs.get("out"))
        for writer in effects.writes_to(node)
    )
