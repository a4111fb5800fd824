"""The compile matrix: every sample of every kernel, for five architectures, kept by content.

A result is stored under a key of the kernels' source, the signature, the hints, the architecture
and the compiler's version, in TILEGYM_TEST_CACHE or .cache/kernels: a second run only looks it up.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib
import io
import json
import lzma
import multiprocessing
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cuda.tile as ct
from cuda.tile.compilation import export_kernel

from tile_backend.lowering import kernels
from tile_backend.lowering.kernels.signature import signature_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPS = (
    "rms_norm add_rms_norm rms_norm_add layer_norm"
    " silu_mul gelu_mul rotary rotary_qk softmax attention"
).split()
ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")
MAIN_ARCHITECTURE = "sm_90"
"""Every sample is compiled for this one; the first sample of a kernel for all."""
WORKERS = 2
"""Compiling processes. A worker of pytest-xdist compiles by itself: it is one of several."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One sample of one kernel on one architecture."""

    op: str
    sample: str
    arch: str

    def __str__(self) -> str:
        return f"{self.op}-{self.sample}-{self.arch}"


@functools.cache
def samples_of(op: str) -> Mapping[str, tuple[Any, Any]]:
    """Sample name -> (arguments, outputs)."""
    module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
    return {name: (arguments, outputs) for name, arguments, outputs in module.samples()}


def cases() -> Iterator[Case]:
    """The matrix: heaviest kernel first, so that no worker waits for it at the end."""
    for op in reversed(OPS):
        for place, sample in enumerate(samples_of(op)):
            for arch in ARCHITECTURES if place == 0 else (MAIN_ARCHITECTURE,):
                yield Case(op, sample, arch)


def launch_of(case: Case) -> Any:
    """The launch that the kernel's own plan chooses for the sample."""
    module = importlib.import_module(f"tile_backend.lowering.kernels.{case.op}")
    return module.plan(*samples_of(case.op)[case.sample], case.arch)


def cache_folder() -> pathlib.Path:
    """Where compiled samples are kept."""
    return pathlib.Path(os.environ.get("TILEGYM_TEST_CACHE") or ROOT / ".cache" / "kernels")


@functools.cache
def source_digest() -> str:
    """One digest of all files of the kernels package."""
    folder = pathlib.Path(next(iter(kernels.__path__)))
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def key_of(case: Case) -> str:
    """Digest of everything that the compiled kernel depends on."""
    launch = launch_of(case)
    options = launch.kernel._compiler_options
    content = json.dumps(
        [
            *(source_digest(), case.arch, ct.__version__, repr(options)),
            signature_for(launch.kernel, launch.args).with_mangled_symbol("k").symbol,
        ]
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def compile_case(case: Case) -> tuple[Case, str]:
    """Compile unless stored. The second result is the compiler's error, or ""."""
    launch = launch_of(case)
    stored = cache_folder() / f"{key_of(case)}.cubin.xz"
    if stored.exists():
        return case, ""
    image = io.BytesIO()
    signature = signature_for(launch.kernel, launch.args)
    try:
        export_kernel(launch.kernel, [signature], image, gpu_code=case.arch, output_format="cubin")
    except ct.TileError as error:
        # A failure is one row of the matrix, which the test of its kernel shows.
        return case, f"{type(error).__name__}: {error}"
    stored.parent.mkdir(parents=True, exist_ok=True)
    temporary = stored.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(lzma.compress(image.getvalue(), preset=1))
    temporary.replace(stored)
    return case, ""


def compile_all(wanted: Iterable[Case]) -> dict[Case, str]:
    """Error text per case. Processes, not threads: cuTile's front end holds a lock."""
    found: dict[Case, str] = {}
    missing = []
    for case in wanted:
        if (cache_folder() / f"{key_of(case)}.cubin.xz").exists():
            found[case] = ""
        else:
            missing.append(case)
    if "PYTEST_XDIST_WORKER" in os.environ:
        found.update(map(compile_case, missing))
    elif missing:
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:
            found.update(pool.map(compile_case, missing))
    return found
