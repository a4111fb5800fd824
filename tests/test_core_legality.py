"""What forbids a rewrite is named, with the node at fault; what does not forbid one does no harm.

The reasons of escapes, writes and regions, what takes their place, and tensors that are not plain.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch.utils import _pytree as pytree

import tile_backend
from tests.core_graph import capture
from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more
from tile_backend.inductor import without_codegen
from tile_backend.lowering.reason import ReasonKind

Tensor = torch.Tensor
ALWAYS = {"tilegym.kernels": "always"}


# --- reasons -------------------------------------------------------------------------------------


def statistics_returned(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * (x * scale), scale


def activation_returned(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    activation = F.silu(x)
    return activation * other, activation


def interior_written(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    scale.mul_(2)
    return weight * (x * scale)


def interior_view_written(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    unit[..., 0].zero_()
    return weight * unit


def input_written(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    activation = F.silu(x)
    other.add_(1)
    x.add_(1)
    return activation * other


def grad_mode_switched(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    with torch.no_grad():
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * (x * scale)


def sum_used_before_the_weight_is_there(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x.bfloat16() + other.bfloat16()
    gain = weight * total.float().amax((0, 1))
    wide = total.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (gain * unit).to(total.dtype), total


REASONS: list[tuple[Callable[..., Any], str, ReasonKind, str]] = [
    (
        statistics_returned,
        "rms_norm",
        ReasonKind.INTERIOR_VALUE_ESCAPES,
        "also returned by the graph",
    ),
    (
        activation_returned,
        "silu_mul",
        ReasonKind.INTERIOR_VALUE_ESCAPES,
        "also returned by the graph",
    ),
    (input_written, "silu_mul", ReasonKind.MUTATION_BARRIER, "has a side effect between"),
    (grad_mode_switched, "rms_norm", ReasonKind.MUTATION_BARRIER, "_set_grad_enabled"),
]


@pytest.mark.parametrize(("program", "fusion", "kind", "words"), REASONS)
def test_the_reason_is_named(
    program: Callable[..., Any], fusion: str, kind: ReasonKind, words: str
) -> None:
    report = tile_backend.explain(program, *x_and_more())
    found = [s for s in report.sites if s.fusion == fusion]
    assert [s.status for s in found] == ["declined"], report.to_text()
    assert found[0].reason is not None
    assert found[0].reason.kind is kind, found[0].reason
    assert words in found[0].reason.text
    assert found[0].reason.node
    assert found[0].source.startswith("test_core_legality.py:")


UNHARMED = [row[0] for row in REASONS] + [interior_written, interior_view_written]


@pytest.mark.parametrize("program", UNHARMED)
def test_a_declined_program_is_unharmed(program: Callable[..., Any]) -> None:
    assert_like_eager(program, *x_and_more(), found={})


def test_an_operand_that_is_the_first_to_read_a_result() -> None:
    """The weight is made of the sum: it is multiplied outside of the op that gives the sum."""

    def program(x: Tensor, other: Tensor) -> Any:
        total = x + other
        return norm(total, total.amax((0, 1))), total

    x, other, _ = x_and_more()
    assert_like_eager(program, x, other, found={"add_rms_norm": 1})


def test_a_smaller_match_where_the_larger_has_no_place() -> None:
    """The sum is needed before the weight exists, so one op cannot give both results."""
    report = assert_like_eager(sum_used_before_the_weight_is_there, *x_and_more())
    assert report.counts == {"rms_norm": 1}


def test_a_cast_that_outlives_the_match_reads_the_new_sum() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        total = x.bfloat16() + other.bfloat16()
        wide = total.float()
        return norm(wide, weight).to(total.dtype), wide, total

    assert assert_like_eager(program, *x_and_more()).counts == {"add_rms_norm": 1}
    names = ("x", "other", "weight")
    twin, _ = capture(program, dict(zip(names, x_and_more(), strict=True))).rewritten()
    assert isinstance(twin, fx.GraphModule)
    targets = [node.target for node in twin.graph.nodes]
    assert operator.add not in targets, "the sum is computed by the op, and nowhere else"


# --- tensors that are not plain ------------------------------------------------------------------


class Labelled(torch.Tensor):
    """A wrapper around a plain tensor, as DTensor is: operations go to `inner` and wrap again."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type[Labelled], inner: Tensor) -> Labelled:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )
        assert isinstance(made, Labelled)
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> Labelled:
        return Labelled(inner["inner"])

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Labelled({tuple(self.shape)})"

    def _stable_hash_for_caching(self) -> str:
        return "Labelled"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        def unwrapped(value: Any) -> Any:
            return value.inner if isinstance(value, Labelled) else value

        def wrapped(value: Any) -> Any:
            return Labelled(value) if isinstance(value, Tensor) else value

        result = function(
            *pytree.tree_map(unwrapped, args), **pytree.tree_map(unwrapped, kwargs or {})
        )
        return pytree.tree_map(wrapped, result)


def test_a_wrapped_tensor_is_left_alone() -> None:
    x, _, weight = x_and_more()
    torch._dynamo.reset()
    with without_codegen():
        compiled = torch.compile(norm, backend="tilegym", options=ALWAYS)
        result = compiled(Labelled(x), Labelled(weight))
    report = tile_backend.last_report()
    assert report is not None
    assert not report.counts
    assert isinstance(result, Labelled)
    assert torch.equal(result.inner, norm(x, weight))


def test_a_distributed_tensor_is_left_alone(tmp_path: Path) -> None:
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        x, _, weight = (DTensor.from_local(t, mesh, [Replicate()]) for t in x_and_more())
        torch._dynamo.reset()
        with without_codegen():
            compiled = torch.compile(norm, backend="tilegym", options=ALWAYS)
            result = compiled(x, weight)
        report = tile_backend.last_report()
        assert report is not None
        assert not report.counts
        assert torch.equal(result.to_local(), norm(x.to_local(), weight.to_local()))
    finally:
        torch.distributed.destroy_process_group()


def test_complex_and_integer_operands_are_no_sites() -> None:
    x, other, _ = x_and_more()

    def gate(x: Tensor, other: Tensor) -> Tensor:
        return x * torch.sigmoid(x) * other

    pair = torch.complex(x, other), torch.complex(other, x)
    assert not assert_like_eager(gate, *pair).counts
    whole = (x * 4).long()
    assert_like_eager(lambda x: F.silu(x.float()) * x, whole, found={"silu_mul": 1})
