"""Training steps through attention that is compiled: its kernels forward and backward, and eager's
gradients; what is kept between has no element per query and key.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.test_inductor_ir_training import calls, joint_parts
from tile_backend.lowering import interpreted, oracle
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

LENGTH, WIDTH, HEADS, KV_HEADS = 48, 32, 4, 2


class Attention(torch.nn.Module):
    """Causal, with shared key heads; projections in and out."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = torch.nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * 8, dtype=dtype)
        self.out = torch.nn.Linear(HEADS * 8, WIDTH, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.project(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        q, k, v = heads.split((HEADS, KV_HEADS, KV_HEADS), 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        result: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


def step(model: torch.nn.Module, call: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """All gradients of one step."""
    model.zero_grad()
    loss = call(x).square().mean()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("kernels", ("interpret", "always"))
def test_a_training_step_is_eagers(
    kernels: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    ran: list[str] = []
    run = interpreted.run

    def spy(op: Any, *rest: Any) -> None:
        ran.append(op.op.name)
        run(op, *rest)

    monkeypatch.setattr(interpreted, "run", spy)
    model = Attention(dtype)
    x = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    options: dict[str, Any] = {"tilegym.kernels": kernels}
    compiled = torch.compile(model, backend="tilegym", options=options)
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with (
        warnings.catch_warnings(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        warnings.simplefilter("error", KernelFallbackWarning)
        ours = step(model, compiled, x)
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"attention": 1}
    expected = ["attention_with_lse", "attention_grad_kv", "attention_grad_q"]
    assert sorted(ran) == (sorted(expected) if kernels == "interpret" else [])
    wide = oracle.widened(model)
    with oracle.Float64():
        exact = step(wide, wide, x.double())
    verdict = oracle.within_budget(ours, exact, step(model, model, x))
    assert verdict, str(verdict)
    assert kept
    assert not [t.shape for t in kept if t.shape[-2:] == (LENGTH, LENGTH)]
    assert max(t.numel() for t in kept) < 2 * HEADS * LENGTH * LENGTH


ops = torch.ops.tilegym


def attend(q: torch.Tensor, kv: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    """32 * 64 numbers, of 8 heads and 64 queries; by kernels, as on a GPU."""
    heads = q.view(1, 8, 64, 4) * 2
    given = (heads, kv.sin(), kv, *(None,) * 4, sinks, 0.5, True)
    mixed: torch.Tensor = ops.attention.interpreted(*given)
    return mixed.transpose(1, 2).reshape(32, 64)


def test_the_partitioner_keeps_the_result_and_its_log_sum_exp() -> None:
    values = [torch.randn(shape, requires_grad=True) for shape in ((32, 64), (1, 2, 64, 4), (8,))]
    graphs = joint_parts(attend, values)
    assert calls(graphs["forward"]) == ["attention_with_lse"]
    assert sorted(calls(graphs["backward"])) == ["attention_grad_kv", "attention_grad_q"]
    (output,) = graphs["forward"].graph.find_nodes(op="output")
    kept = [n.meta["val"] for n in output.args[0] if isinstance(n, torch.fx.Node)]
    shapes = [tuple(value.shape) for value in kept if isinstance(value, torch.Tensor)]
    assert (1, 8, 64) in shapes  # the log-sum-exp
    assert max(value.numel() for value in kept if isinstance(value, torch.Tensor)) == 8 * 64 * 4


def test_frozen_keys_have_no_gradient_op() -> None:
    q, kv, sinks = (torch.randn(shape) for shape in ((32, 64), (1, 2, 64, 4), (8,)))
    graphs = joint_parts(attend, [q.requires_grad_(), kv, sinks])
    assert calls(graphs["backward"]) == ["attention_grad_q"]
