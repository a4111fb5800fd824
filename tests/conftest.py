"""What every test run needs: one thread per worker, a compile cache of its own, and the markers.

Inductor's caches lie in the checkout: a clean clone starts from nothing, and `make clean` forgets
them. They may live between runs because their keys cover our sources, which has tests of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported, which reads it once: the workers already use every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "inductor")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no CUDA device; nothing else is skipped."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
