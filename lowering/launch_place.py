"""Do ops launch kernels for a tensor? On a GPU, and where a test says so.

Known when code is compiled: Inductor's lowering writes launches there, and autograd takes gradients
that are kernels. Elsewhere an op is its reference, and so is what differentiates it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch

_COMPILER_CONFIG: Any = torch.compiler.config  # its methods are installed at import
_forced: contextvars.ContextVar[bool] = contextvars.ContextVar("force_direct_launch", default=False)


def launches_on(device: torch.device) -> bool:
    """Whether an op's kernel is launched for tensors of that device."""
    return _forced.get() or device.type == "cuda"


@contextlib.contextmanager
def force_direct_launch() -> Iterator[None]:
    """For tests without a GPU: what is compiled inside launches directly on CPU buffers too.

    The launcher then computes the reference. Compiled code differs, so the cache keys must.
    """
    token = _forced.set(True)
    try:
        with _COMPILER_CONFIG.patch(cache_key_tag="tilegym.force_direct_launch"):
            yield
    finally:
        _forced.reset(token)
