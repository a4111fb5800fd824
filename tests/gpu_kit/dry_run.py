"""What the check launches, launched on a stub of the CUDA driver: no kernel may be missing.

`make gpu-kit` ends with it, in a process that sees the kit's kernels and no compiler. Nothing is
computed, so nothing is compared. Models are compiled by Inductor for the CPU, whose choice of
layouts is what the captured graphs cannot tell. What is too large for a CPU is left out.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from tests import stub_driver
from tests.gpu_kit import calls, launches
from tests.gpu_kit.model_runs import RUNS, Run
from tile_backend.lowering import inductor_ir
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.kernels import tileiras
from tile_backend.lowering.kernels.build_error import MissingError

LARGE = ("wide",)
MISSING = MissingError("a dry run has no compiler")


def everything() -> Iterator[tuple[str, Callable[[], object]]]:
    """Titles, and what launches."""
    for call in calls.parity_calls():
        yield str(call), lambda call=call: launches.results(call.op, call.make())
    for name in calls.NORMS.keys() - set(LARGE):
        values = calls.norm_values(name, "cpu")
        yield f"norm {name}", lambda values=values: launches.results("rms_norm", values)
    for run in RUNS:
        yield run.name, lambda run=run: run_model(run)


def run_model(run: Run) -> None:
    """Compiled with every op put in: on a CPU no verdict is "kernel", which OPTIONS insist on."""
    torch.compiler.reset()
    model = run.model()
    with inductor_ir.force_direct_launch():
        compiled = torch.compile(
            model,
            backend="tilegym",
            options={"tilegym.kernels": "always"},
            dynamic=run.dynamic or None,
        )
        compiled(**run.inputs(model))


def missing() -> list[str]:
    """What could not be launched, and why."""
    found = []
    driver = stub_driver.install()
    no_compiler = mock.patch.object(tileiras, "found", return_value=MISSING)
    with no_compiler, stub_driver.gpu(driver), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        for title, launch in everything():
            before = driver.launched
            try:
                launch()
            except KernelFallbackWarning as refusal:
                found.append(f"{title}: {refusal}")
            else:
                if driver.launched == before and "empty" not in title:
                    found.append(f"{title}: nothing was launched")
    return found


if __name__ == "__main__":
    problems = missing()
    print("\n".join(problems))
    sys.exit(bool(problems))
