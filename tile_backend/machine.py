"""What this machine has: versions of packages, the kernel compiler, the driver and the GPUs.

Each question is answered without importing what it asks about, except torch, and "" or nothing
means that it is not there. Nothing raises and nothing is changed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

TIMEOUT_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One CUDA device. arch: "sm_90"."""

    name: str
    capability: tuple[int, int]

    @property
    def arch(self) -> str:
        """The name that compilers use."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def package_version(distribution: str) -> str:
    """The installed version of a distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def tileiras_path() -> str:
    """The compiler behind cuda-tile, looked for where cuda-tile looks: package, PATH, toolkit."""
    bundled = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "tileiras")
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "tileiras")
    if bundled.is_file():
        return str(bundled)
    return shutil.which("tileiras") or (str(toolkit) if toolkit.is_file() else "")


def tileiras_version() -> str:
    """Its release, "13.4.92"; "unknown" if it does not run."""
    path = tileiras_path()
    if not path:
        return ""
    try:
        run = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    match = re.search(r"\bV(\d+\.\d+\.\d+)", run.stdout)
    return match[1] if match else "unknown"


def driver_version() -> str:
    """The NVIDIA driver and the CUDA version it serves: "580.159 (CUDA 13.0)"."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        number = ctypes.c_int()
        failed = library.cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return ""
    cuda = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    return "" if failed else f"{kernel_module_version()} ({cuda})".lstrip()


def kernel_module_version() -> str:
    """The version of the driver's kernel module."""
    try:
        told = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", told)
    return match[1] if match else ""


def gpus() -> list[Gpu]:
    """The CUDA devices that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        Gpu(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i))
        for i in range(torch.cuda.device_count())
    ]


def cxx_compiler() -> str:
    """The C++ compiler that Inductor would use on a CPU."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), "")
