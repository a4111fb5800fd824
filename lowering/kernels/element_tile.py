"""How many elements a block handles, where none needs another: gates and rotations."""

from __future__ import annotations

import dataclasses

from tile_backend.lowering.kernels.configuration import Configuration, Values, around
from tile_backend.lowering.kernels.row_layout import (
    MOST_EACH,
    OCCUPANCIES,
    RESIDENT_WARPS,
    WARPS,
)


@dataclasses.dataclass(frozen=True)
class ElementTile(Configuration):
    """A block handles so many elements, of which none needs another."""

    elements: int
    warps: int | None = None
    occupancy: int | None = None

    def space(self) -> Values:
        elements = around(self.elements, 256, 8192)
        return {"elements": elements, "warps": (None, *WARPS), "occupancy": OCCUPANCIES}

    def fits(self) -> bool:
        warps = self.warps or WARPS[0]
        each = self.elements // (32 * warps)
        resident = warps * (self.occupancy or RESIDENT_WARPS // warps)
        return 4 <= each <= MOST_EACH and RESIDENT_WARPS <= resident <= 2 * RESIDENT_WARPS
