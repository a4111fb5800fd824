"""What is known of a launch before its kernel is compiled: how many blocks, how many at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tile_backend.lowering.launch_recipe import describe, recipe


def blocks_of(
    arch: str,
) -> Callable[[str, Mapping[str, Any], Sequence[Any]], tuple[int, int]]:
    """(op, arguments, outputs) -> blocks of its grid, and how many a multiprocessor is to hold.

    (0, 1) where no plan says it.
    """

    def blocks(op: str, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> tuple[int, int]:
        described = describe((*arguments.values(), *outputs))
        try:
            found = recipe(op, tuple(arguments), described, arch)
        except Exception:  # noqa: BLE001 - refused, or not installed: said elsewhere
            return 0, 1
        if found is None:
            return 0, 1
        resident = dict(found.kernel._hints).get("occupancy") or 1
        return math.prod(found.grid), int(resident)

    return blocks
