"""A kernel that calls a function, which reads a number of its module; tests compile it."""

from __future__ import annotations

from typing import Any

import cuda.tile as ct

DOUBLE = 2.0


def helper(tile: Any) -> Any:
    return tile * DOUBLE


def doubled(x: ct.Array, out: ct.Array, BLOCK: ct.Constant[int]) -> None:
    """out = 2 * x in pieces of BLOCK."""
    at = (ct.bid(0),)
    ct.store(out, at, helper(ct.load(x, at, (BLOCK,), padding_mode=ct.PaddingMode.ZERO)))
