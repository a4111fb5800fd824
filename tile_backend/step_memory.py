"""How much memory a warm step needs at most, beyond what is there before it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch


def peak_mib(step: Callable[[], object], device: str) -> float:
    """MiB. device: "cuda", from torch's allocator, else memory of this process.

    On a CPU a step may find memory that steps before it left: exact only in a fresh process.
    """
    return gpu_peak_mib(step) if device == "cuda" else cpu_peak_mib(step)


def gpu_peak_mib(step: Callable[[], object]) -> float:
    """Of the current CUDA device."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def cpu_peak_mib(step: Callable[[], object]) -> float:
    """Of this process, as the kernel of Linux counts it."""
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of steps before
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = resident_mib("VmRSS")
    step()
    return resident_mib("VmHWM") - before


def resident_mib(name: str) -> float:
    """Memory of this process: "VmRSS", now; "VmHWM", at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
