"""How many operations attention takes where its kernel leaves out what a mask hides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def flops(arguments: Mapping[str, Any]) -> float:
    """Of both matrix products, over the keys that queries see.

    What is read from a tensor (padding, segments, an offset, a mask) hides nothing for certain.
    """
    q, v = arguments["q"], arguments["v"]
    per_pair = 2 * (q.shape[-1] + v.shape[-1])
    return float(math.prod(q.shape[:-2]) * per_pair * pairs(arguments, q.shape[-2], v.shape[-2]))


def pairs(arguments: Mapping[str, Any], queries: int, keys: int) -> int:
    """Queries and keys that meet."""
    if not arguments.get("is_causal"):
        return queries * keys
    most = min(n for n in (keys, arguments.get("window"), arguments.get("chunk")) if n is not None)
    first = int(arguments.get("start") or 0) + 1  # keys that the first query sees
    growing = max(0, min(queries, most - first))  # queries that see fewer than the most
    return growing * (2 * first + growing - 1) // 2 + (queries - growing) * most
