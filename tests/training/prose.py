"""Real text as token ids: the bytes of a story that ships with the tests.

alice.txt is Lewis Carroll, "Alice's Adventures in Wonderland" (1865), chapters I to III, in the
public domain. What training reads and what evaluation reads do not overlap.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

VOCABULARY = 256
"""Token ids are bytes."""

HELD_OUT = 4096
"""Bytes at the end of the text that no training batch reads."""


@functools.cache
def text() -> torch.Tensor:
    """All of the story, int64."""
    content = (Path(__file__).parent / "alice.txt").read_bytes()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).long()


def batches(seed: int, steps: int, batch: int, length: int) -> torch.Tensor:
    """Training tokens [steps, batch, length]: stretches that start anywhere, as `seed` says."""
    generator = torch.Generator().manual_seed(seed)
    last = len(text()) - HELD_OUT - length
    starts = torch.randint(0, last, (steps, batch, 1), generator=generator)
    return text()[starts + torch.arange(length)]


def held_out(batch: int, length: int) -> torch.Tensor:
    """Evaluation tokens [batch, length], the same each time."""
    return text()[-HELD_OUT:][: batch * length].view(batch, length)
