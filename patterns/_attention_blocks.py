"""Causal attention within a window or a chunk, cut into blocks of queries.

Each block reads only the keys that it can see, so that neither time nor memory grow with the square
of the length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

SMALLEST_BLOCK = 128
"""Queries per block: the smallest that was tried on a CPU, and the fastest there."""
MOST_BLOCKS = 32
"""Each is one more call."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Queries [begin, end), which read the keys [first, last).

    window: how far back a query sees in there; None: as far as there are keys. masked: by a mask
    tensor that is not left out.
    """

    begin: int
    end: int
    first: int
    last: int
    window: int | None = None
    masked: bool = False

    @property
    def is_causal(self) -> bool:
        """Whether that is plain causal attention: the first query is at the first key."""
        return self.first == self.begin and self.window is None

    @property
    def kind(self) -> tuple[int, int, int | None]:
        """Equal for blocks of one `band`."""
        return self.end - self.begin, self.begin - self.first, self.window


def blocks(arguments: Mapping[str, Any]) -> list[Block] | None:
    """None where it would not be better: few queries, many blocks, sizes that are symbols."""
    length, keys = arguments["q"].shape[2], arguments["k"].shape[2]
    window, chunk = arguments["window"], arguments["chunk"]
    if not (isinstance(length, int) and length == keys and arguments["is_causal"]):
        return None
    if (window is None) == (chunk is None) or length < 2 * SMALLEST_BLOCK:
        return None
    if chunk is None:
        return list(windowed(length, window))
    return list(chunked(length, chunk)) if -(-length // chunk) <= MOST_BLOCKS else None


def chunked(length: int, chunk: int) -> Iterator[Block]:
    """Every chunk is plain causal attention of its own."""
    for begin in range(0, length, chunk):
        end = min(begin + chunk, length)
        yield Block(begin, end, begin, end)


def windowed(length: int, window: int) -> Iterator[Block]:
    """The first keys are plain causal attention."""
    least = max(SMALLEST_BLOCK, window // 4, -(-length // MOST_BLOCKS))
    size = -(-least // SMALLEST_BLOCK) * SMALLEST_BLOCK
    for begin in range(0, length, size):
        end, first = min(begin + size, length), max(0, begin - window + 1)
        yield Block(begin, end, first, end, None if end <= window else window)


def band(block: Block, q: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of the block: 0, or -inf where a query does not see a key.

    Row i and column j are query begin + i and key first + j; there are none behind the last query.
    """
    ahead = block.begin - block.first
    shape = (block.end - block.begin, block.end - block.first)
    seen = q.new_ones(shape, dtype=torch.bool).tril(ahead)
    if block.window is not None:
        seen = seen.triu(ahead - block.window + 1)
    return q.new_zeros(shape).masked_fill(~seen, -torch.inf)
