"""Under mode="reduce-overhead" nothing of ours keeps a model out of a CUDA graph.

Without a GPU no graph is captured, but Inductor's own questions can be asked: of each operation,
whether a graph has to be cut there, and of the whole, whether it holds something that must not be
captured. The answer "it is on a CPU" is put aside. tests/test_models_gpu.py has the captures.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import fx
from torch._inductor import config as inductor_config
from torch._inductor import utils as inductor_utils
from torch._inductor.scheduler import BaseSchedulerNode, Scheduler
from torch._inductor.virtualized import V

from tile_backend import inductor, inductor_stages, pipeline, registry, tiny_model
from tile_backend.lowering import inductor_ir, joint_graph
from tile_backend.lowering.check_request import Check
from tile_backend.options import Options

MODELS = ("llama", *(pytest.param(n, marks=pytest.mark.full) for n in ("gemma3_text", "gpt_oss")))
"""A plain one, one with windows and offsets, one with sinks and experts."""
OPTIONS, _ = Options.parse({"tilegym.kernels": "always"}, environ={})


@dataclasses.dataclass
class Seen:
    """launches: how many. cuts: why a graph is cut, for each place. forbidden: what must not be."""

    launches: int = 0
    cuts: list[str] = dataclasses.field(default_factory=list)
    forbidden: set[str] = dataclasses.field(default_factory=set)


@contextmanager
def asked() -> Iterator[Seen]:
    """Inside, code is written as for CUDA graphs; all of it in one, whatever the answers were."""
    seen = Seen()
    should_partition = Scheduler.should_partition

    def ask(self: Scheduler, node: BaseSchedulerNode, *args: Any, **kwargs: Any) -> None:
        with mock.patch.object(BaseSchedulerNode, "is_gpu", return_value=True):
            reason = should_partition(self, node, *args, **kwargs)
        if reason:
            seen.cuts.append(f"{node.get_name()}: {reason}")
        found = inductor_utils.get_first_incompatible_cudagraph_node(V.graph.module)
        if found is not None:
            seen.forbidden.add(str(found.target))

    graphs = {"triton.cudagraphs": True, "graph_partition": True}
    with (
        inductor_config.patch(graphs),
        mock.patch.object(Scheduler, "should_partition", ask),
        inductor_ir.force_direct_launch(),
        inductor_ir.written_launches() as launches,
    ):
        yield seen
    seen.launches = len(launches)


def compiled(module: fx.GraphModule, check: Check | None = None) -> Seen:
    """Inside a capture: every op put in, and compiled up to the code."""
    found = pipeline.analyse(module, OPTIONS)
    inductor_ir.install(registry.known_fusions())
    found = dataclasses.replace(found, check=check)
    assert found.apply().ops == found.ops
    passes = {"joint_custom_post_pass": joint_graph.JointGraphPass("graphs")}
    with asked() as seen:
        parts = inductor_stages.watched(module, inductor.captured_inputs(), passes)
    assert not [part.failure for part in parts if part.failure]
    return seen


def questions(model_type: str, training: bool, dynamic: bool, check: Check | None = None) -> Seen:
    """What was asked of a small model, forward and backward."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = tiny_model.tiny_model(model_type, dtype=torch.bfloat16).train(training)
    ids = tiny_model.tokens(3, 24)
    arguments = {"input_ids": ids, "use_cache": False}
    if training:
        arguments["labels"] = ids
    if dynamic:
        torch._dynamo.mark_dynamic(ids, 0)
    with torch.set_grad_enabled(training):
        visit = functools.partial(compiled, check=check)
        found = inductor.capture(model, (), arguments, visit)
    seen = found.visited
    assert isinstance(seen, Seen), found.break_reason
    return seen


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static batch", "dynamic batch"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("model_type", MODELS)
def test_no_launch_cuts_a_graph(model_type: str, training: bool, dynamic: bool) -> None:
    seen = questions(model_type, training, dynamic)
    assert seen.launches > (30 if training else 10)
    assert seen.cuts == []
    assert seen.forbidden == set()


def test_the_question_has_another_answer() -> None:
    """Checked ops compare on the host: they are what a CUDA graph must not hold."""
    seen = questions("llama", training=False, dynamic=False, check=Check(raises=True, folder=""))
    assert any("CUDAGraph-unsafe" in cut for cut in seen.cuts)
    assert any("tilegym" in target for target in seen.forbidden)
