"""Device time of several versions of one job, and what this GPU reaches.

How time is taken is said in `tile_backend.lowering.device_clock`, with which kernels are tuned as
well; the host's share is left out, and `bench.launch_overhead` measures it.
"""

from __future__ import annotations

import torch

from tile_backend.lowering.device_clock import captured, time_replays, time_rounds

__all__ = ["captured", "ceilings", "time_replays", "time_rounds"]

COPY_BYTES = 2**32
PRODUCT = 8192


def ceilings(samples: int = 20) -> dict[str, float]:
    """What this GPU reaches: bytes per microsecond copied (read and written), FLOP per microsecond
    of a bfloat16 matrix product of random numbers.
    """
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(PRODUCT, PRODUCT, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    found = time_rounds({"copy": lambda: target.copy_(source), "product": lambda: a @ b}, samples)
    return {
        "bytes_per_us": 2 * COPY_BYTES / sorted(found["copy"])[samples // 2],
        "flop_per_us": 2 * PRODUCT**3 / sorted(found["product"])[samples // 2],
    }
