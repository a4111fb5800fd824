"""Is there a GPU of the kit's architecture, and does its driver run one compiled kernel?

What comes after needs all of that.
"""

from __future__ import annotations

import torch

from tests.gpu_kit import launches
from tests.gpu_kit.calls import parity_calls
from tests.gpu_kit.outcome import Outcome
from tests.kernel_check import verdict_on
from tile_backend.lowering import cuda_state
from tile_backend.lowering.custom_op import record


def run(arch: str) -> Outcome:
    """arch: that the kit's kernels are for; "" where they are compiled here."""
    if not torch.cuda.is_available():
        return Outcome("no GPU", [f"torch {torch.__version__} sees no CUDA device"])
    found = cuda_state.architecture(0)
    if arch not in ("", found):
        again = f'pack another with: make gpu-kit ARGS="--arch {found}"'
        return Outcome("another GPU", [f"the kit is for {arch} and this GPU is {found}; {again}"])
    call = next(parity_calls())
    values, outputs = launches.on_gpu(call)
    (verdict,) = verdict_on(record(call.op), values, outputs)
    return Outcome(f"{call} on {found}", [] if verdict else [f"{call}: {verdict}"])
