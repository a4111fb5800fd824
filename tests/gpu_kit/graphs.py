"""Every op captured in a CUDA graph: a replay with new inputs does what a launch does, exactly."""

from __future__ import annotations

import torch

from tests import placed
from tests.gpu_kit.calls import Call, sanitized_calls
from tests.gpu_kit.launches import GPU, on_gpu
from tests.gpu_kit.outcome import Outcome
from tests.kernel_check import UNWRITTEN
from tile_backend.lowering import launch
from tile_backend.lowering.custom_op import record


def run() -> Outcome:
    """Of the calls that the checker of memory sees as well."""
    wanted = list(sanitized_calls())
    problems = [f"{call}: a replay differs from a launch" for call in wanted if not replayed(call)]
    return Outcome(f"{len(wanted) - len(problems)} of {len(wanted)} replays are right", problems)


def replayed(call: Call) -> bool:
    """Whether the replay is right."""
    op, values = record(call.op), placed.all_on(call.make(), GPU)
    outputs = [torch.full_like(out, UNWRITTEN) for out in on_gpu(call)[1]]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch.launch(op, values, outputs)
    for name, value in changed(call).items():
        values[name].copy_(value)
    graph.replay()
    expected = [torch.full_like(out, UNWRITTEN) for out in outputs]
    launch.launch(op, values, expected)
    return all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def changed(call: Call) -> dict[str, torch.Tensor]:
    """Its floating-point arguments with other values."""
    return {
        name: value.flip(-1)
        for name, value in call.make().items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
