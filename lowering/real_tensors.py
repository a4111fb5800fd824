"""Running real code in the middle of a compile, and leaving no trace of it.

A backend is called while Dynamo traces: a tracing context, perhaps a fake mode and transforms of
torch.func are in force, autocast and inference mode as in the user's program. Inside `isolated`
none of them is, gradients are on, and the random state is put back afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._guards import tracing

from tile_backend.lowering.autocast_state import Autocast, entered
from tile_backend.lowering.meta import without_fakes

OFF = tuple(Autocast(kind, None, enabled=False) for kind in ("cpu", "cuda"))


class CannotRun(Exception):
    """A site does not run alone; the text says why, for the report."""


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """device: whose random state is put back beside the CPU's."""
    devices = [device] if device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(tracing(None))
        stack.enter_context(without_fakes())
        if torch._C._are_functorch_transforms_active():
            stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(entered(OFF))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        yield
