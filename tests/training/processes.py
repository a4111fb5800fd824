"""Two processes that train together on the CPU, over gloo.

`outcomes(work, folder)` runs `work(rank, folder)` in each, and returns what it returned, by rank.
They meet in a file, not at a port, so any number of such tests may run at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

WORLD = 2

Work = Callable[[int, Path], Any]
"""A function of a module, since a fresh process imports it; what it returns is pickled."""


def outcomes(work: Work, folder: Path) -> list[Any]:
    """Raises what a process raised, with its traceback."""
    torch.multiprocessing.spawn(_process, (work, folder), WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _process(rank: int, work: Work, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    try:
        torch.save(work(rank, folder), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
