"""The compile matrix: every sample of every kernel, for five architectures, kept by content.

Results go to a kernel store in TILEGYM_TEST_CACHE or .cache/kernels: a second run only looks
them up.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

from tests import kernel_remarks
from tile_backend.lowering import cubin_store
from tile_backend.lowering.kernels.build_error import BuildError
from tile_backend.lowering.kernels.signature import signature_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPS = (
    "rms_norm add_rms_norm rms_norm_add layer_norm"
    " silu_mul gelu_mul rotary rotary_qk softmax"
    " rms_norm_grad layer_norm_grad silu_mul_grad gelu_mul_grad rotary_grad rotary_qk_grad"
    " silu_mul_grad_packed gelu_mul_grad_packed softmax_grad"
    " attention attention_with_lse attention_grad_q attention_grad_kv"
    " attention_split attention_join"
    " cross_entropy_rows cross_entropy_grad"
).split()
ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")
MAIN_ARCHITECTURE = "sm_90"
"""Where one will do: the kernels for indices of 64 bits are compiled for this one only."""
FASTEST = (MAIN_ARCHITECTURE, "sm_100")
REST = tuple(arch for arch in ARCHITECTURES if arch not in FASTEST)
WORKERS = 2
"""Compilers at a time. A worker of pytest-xdist runs one: it is one of several."""


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
        for sample in samples_of(op):
            for arch in ARCHITECTURES:
                yield Case(op, sample, arch)


def quick_architectures(op: str) -> tuple[str, ...]:
    """Of a kernel in `make test`: Hopper, Blackwell, and one of the rest, which take turns."""
    return *FASTEST, REST[OPS.index(op) % len(REST)]


def quick_cases() -> Iterator[Case]:
    """What `make test` compiles: the first sample of each kernel for `quick_architectures`, and
    every eighth for sm_90.
    """
    for case in cases():
        number = list(samples_of(case.op)).index(case.sample)
        first = number == 0 and case.arch in quick_architectures(case.op)
        if first or (number % 8 == 0 and case.arch == MAIN_ARCHITECTURE):
            yield case


def launch_of(case: Case) -> Any:
    """The launch that the kernel's own plan chooses for the sample."""
    module = importlib.import_module(f"tile_backend.lowering.kernels.{case.op}")
    return module.plan(*samples_of(case.op)[case.sample], case.arch)


def cache_folder() -> pathlib.Path:
    """Where compiled samples are kept."""
    return pathlib.Path(os.environ.get("TILEGYM_TEST_CACHE") or ROOT / ".cache" / "kernels")


def compile_case(case: Case, wide: bool = False) -> tuple[Case, str]:
    """Compile unless stored. The second result is the compiler's error, or "".

    wide: with indices of 64 bits, as for tensors of 2**31 elements.
    """
    launch = launch_of(case)
    kernel = launch.kernel.wide if wide else launch.kernel
    try:
        kernel_remarks.build(kernel, kernel.code(signature_for(kernel, launch.args), case.arch))
    except BuildError as error:
        # A failure is one row of the matrix, which the test of its kernel shows.
        return case, str(error)
    return case, ""


def compile_all(wanted: Iterable[Case], wide: bool = False) -> dict[Case, str]:
    """Error text per case. Threads: the compiler is a process, and the front end takes turns."""
    folder = {cubin_store.FOLDER: str(cache_folder())}
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else WORKERS
    stored = mock.patch.dict(os.environ, folder)
    with stored, kernel_remarks.kept(), ThreadPoolExecutor(workers) as pool:
        return dict(pool.map(functools.partial(compile_case, wide=wide), wanted))
