"""Where and with what something is measured in this process: part of every stored measurement."""

from __future__ import annotations

import datetime as dt
import importlib.metadata

import torch

from tile_backend.lowering.tuning_entry import Circumstances


def today() -> dt.date:
    """In UTC."""
    return dt.datetime.now(dt.UTC).date()


def here(gpu: str, sources: str, driver: str) -> Circumstances:
    """gpu, driver: in words. sources: a digest of the code that was timed, see tuning_sources."""
    return Circumstances(
        date=today().isoformat(),
        gpu=gpu,
        driver=driver,
        torch=torch.__version__,
        cuda_tile=version("cuda-tile"),
        compiler=version("nvidia-cuda-tileiras"),
        sources=sources,
    )


def has_this_inductor(version_of_torch: str) -> bool:
    """Whether Inductor is that of this process: each release of torch writes other code."""
    return release(version_of_torch) == release(torch.__version__)


def release(version: str) -> list[str]:
    """Major and minor: of "2.13.0+cpu" 2 and 13."""
    return version.split(".")[:2]


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
