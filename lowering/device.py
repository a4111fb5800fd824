"""The GPU that the gate decides for, as plain figures.

Where there is a GPU they are read from the driver. A graph of fake CUDA tensors has none to ask:
an sm_90 GPU is assumed, and `assumed` says so. `simulated` replaces the description, and tensors of
the CPU then count as the GPU's: every decision can be tried without one.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator

import torch


@dataclasses.dataclass(frozen=True)
class Gpu:
    """name: as the driver says. arch: "sm_90". capability: (9, 0). l2: bytes of the L2 cache.

    bandwidth: bytes a second, of the memory's pins. flops: a second, dense, in bfloat16. Both are
    what the data sheet promises, not what was measured. assumed: there was no GPU to ask.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    l2: int
    bandwidth: float
    flops: float
    assumed: bool = False

    @property
    def arch(self) -> str:
        major, minor = self.capability
        return f"sm_{major}{minor}"


ASSUMED = Gpu("an assumed sm_90 GPU", (9, 0), 132, 50 * 2**20, 3.35e12, 989e12, assumed=True)
"""The figures of an H100's data sheet."""

FLOPS_PER_CLOCK = {8: 2048, 9: 4096, 10: 8192, 11: 8192, 12: 1024}
"""By major capability: of one multiprocessor's matrix units, dense, in bfloat16."""
FLOPS_PER_CLOCK_MINOR = {(8, 6): 512, (8, 7): 1024, (8, 9): 1024}
"""Those that have less than their major capability says."""

_simulated: contextvars.ContextVar[tuple[Gpu, bool] | None] = contextvars.ContextVar(
    "gpu", default=None
)


@contextlib.contextmanager
def simulated(gpu: Gpu, exists: bool = False) -> Iterator[Gpu]:
    """Inside, tensors of every device count as this GPU's.

    exists: it is a GPU of this machine, for which kernels are compiled; the tensors may be on meta.
    """
    token = _simulated.set((gpu, exists))
    try:
        yield gpu
    finally:
        _simulated.reset(token)


def simulation() -> Gpu | None:
    """The GPU that tensors of every device count as."""
    found = _simulated.get()
    return found[0] if found else None


def is_made_up() -> bool:
    """Whether that GPU does not exist, so that nothing is compiled for it."""
    found = _simulated.get()
    return found is not None and not found[1]


def current() -> Gpu | None:
    """The GPU of this process; None without one."""
    if simulation() is None and not torch.cuda.is_available():
        return None
    return of(torch.device("cuda", torch.cuda.current_device() if not simulation() else 0))


def of(device: torch.device) -> Gpu | None:
    """The GPU that a tensor of this device is on; None where it is on none."""
    made_up = simulation()
    if made_up is not None:
        return made_up
    return described(device.index or 0) if device.type == "cuda" else None


@functools.cache
def described(index: int) -> Gpu:
    """GPU number `index` of this machine."""
    if not torch.cuda.is_available():
        return ASSUMED
    found = torch.cuda.get_device_properties(index)
    capability = (found.major, found.minor)
    per_clock = FLOPS_PER_CLOCK_MINOR.get(capability, FLOPS_PER_CLOCK.get(found.major, 1024))
    # Clocks in kHz, bus in bits; torch versions differ in what they have.
    clock = getattr(found, "clock_rate", 0)
    memory_clock, bus = (
        getattr(found, "memory_clock_rate", 0),
        getattr(found, "memory_bus_width", 0),
    )
    flops = clock * 1e3 * per_clock * found.multi_processor_count
    bandwidth = 2e3 * memory_clock * bus / 8
    return Gpu(
        name=found.name,
        capability=capability,
        multiprocessors=found.multi_processor_count,
        l2=getattr(found, "L2_cache_size", 0) or ASSUMED.l2,
        bandwidth=bandwidth or ASSUMED.bandwidth,
        flops=flops or ASSUMED.flops,
    )
