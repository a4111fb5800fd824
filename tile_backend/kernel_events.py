"""How many kernels a step runs on the GPU, CUDA graphs included, as torch's profiler sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

NO_KERNELS = ("Memcpy", "Memset")
"""What the device does besides kernels."""


def launched(step: Callable[[], object]) -> int:
    """Kernels of one warm step on the current CUDA device."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        step()
        torch.cuda.synchronize()
    return kernels_in(profiled.events())


def kernels_in(events: Iterable[Any]) -> int:
    """Of a profile's events those of the device that are kernels."""
    cuda = torch.profiler.DeviceType.CUDA
    return sum(e.device_type == cuda and not e.name.startswith(NO_KERNELS) for e in events)
