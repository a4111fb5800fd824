"""The current CUDA device and stream, by the cheapest names that torch has for them.

They are private, and asked at every launch: `torch.cuda.current_stream()` makes an object where
this gives the number that a launch takes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch


def _no_cuda(*_: Any) -> int:
    raise RuntimeError("this torch is a CPU build")


current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", _no_cuda)
"""The index of the device on which work is queued unless told otherwise."""

raw_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _no_cuda)
"""The handle of a device's current stream: during a capture, of the one that is captured."""


def on(device: int) -> contextlib.AbstractContextManager[Any]:
    """Makes a device current."""
    return torch.cuda.device(device)


@functools.cache
def architecture(device: int) -> str:
    """The name that compilers use: "sm_90"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
