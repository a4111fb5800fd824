"""The launcher: what generated code imports, and when the reference runs in place of a kernel."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch

from tests.op_samples import OWN_KERNEL, Case, arguments, one_of_each
from tile_backend import registry
from tile_backend.lowering import (
    custom_op,
    launch,
    launch_abi1,
    launch_recipe,
)
from tile_backend.lowering.fusion import Fusion, Op

GPU = torch.device("cuda", 0)


pytestmark = pytest.mark.usefixtures("fresh_launcher")


def test_one_output_is_a_keyword() -> None:
    x, out = torch.randn(3, 5), torch.empty(3, 5)
    assert launch_abi1.rms_norm(x, None, 1e-6, 0.0, "once", out=out) is out
    assert torch.equal(out, torch.ops.tilegym.rms_norm(x, None, 1e-6))


def test_several_outputs_follow_and_none_is_dead() -> None:
    x, weight, total = torch.randn(3, 5), torch.ones(5), torch.empty(5, 3).t()
    launch_abi1.add_rms_norm(x, x, weight, 1e-6, 0.0, "once", None, total)
    assert torch.equal(total, x + x)


def test_parameters_outside_no_grad_do_not_enter_a_graph() -> None:
    x, out = torch.randn(3, 5, requires_grad=True), torch.empty(3, 5)
    launch_abi1.rms_norm(x, None, 1e-6, 0.0, "once", out=out)
    assert not out.requires_grad


def test_an_unknown_op_says_what_to_import() -> None:
    with pytest.raises(
        AttributeError, match=r"tilegym.nothing, which no fusion .* declares; import"
    ):
        launch_abi1.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="_private"):
        launch_abi1._private  # noqa: B018


def test_a_registered_fusion_is_found_before_anything_compiled() -> None:
    op = Op("test_late", "(Tensor x) -> Tensor", lambda x: x + 1, lambda x: torch.empty_like(x))
    registry.register(Fusion("test_late", "", (op,), holes={}, spellings=()))
    try:
        out = torch.empty(2)
        launch_abi1.test_late(torch.zeros(2), out=out)
    finally:
        registry.unregister("test_late")
    assert out.tolist() == [1.0, 1.0]


FRESH = """
import sys, torch
import tile_backend.lowering.launch_abi1 as _tg
heavy = ("torch._inductor.lowering", "tile_backend.patterns", "tile_backend.lowering.custom_op",
         "tile_backend.lowering.match", "cuda.tile")
assert not [name for name in heavy if name in sys.modules], "not light"
x = torch.ones(2, 4)
_tg.rms_norm(x, None, 0.0, 0.0, 'once', out=x)
assert x.tolist() == [[1.0] * 4] * 2
assert "cuda.tile" not in sys.modules and "tile_backend.lowering.match" not in sys.modules
"""


def test_a_fresh_process_needs_only_this_import() -> None:
    subprocess.run([sys.executable, "-c", FRESH], check=True, timeout=120)


@pytest.mark.parametrize("case", one_of_each(), ids=str)
def test_the_launcher_and_the_op_agree(case: Case) -> None:
    values = arguments(case, torch.bfloat16, contiguous=False)
    expected = case.record.overload(*values.values())
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    buffers = [torch.empty_like(t) for t in expected]
    launch.launch(case.record, values, buffers)
    for buffer, result in zip(buffers, expected, strict=True):
        assert torch.equal(buffer, result)


@pytest.mark.parametrize("contiguous", (True, False), ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", OWN_KERNEL, ids=str)
def test_a_recipe_gives_what_the_plan_gives(case: Case, contiguous: bool) -> None:
    values = arguments(case, torch.bfloat16, contiguous=contiguous)
    outputs = case.record.op.outputs(**values)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    everything = (*values.values(), *outputs)
    kernel = importlib.import_module(f"tile_backend.lowering.kernels.{case.op}")
    plan = kernel.plan(values, outputs, "sm_90")
    described = launch_recipe.describe(everything)
    recipe = launch_recipe.recipe(case.op, tuple(values), described, "sm_90")
    assert recipe is not None
    assert (recipe.kernel, recipe.grid) == (plan.kernel, plan.grid)
    for ours, theirs in zip(recipe.arguments(everything), plan.args, strict=True):
        if isinstance(theirs, torch.Tensor):
            assert ours.data_ptr() == theirs.data_ptr()
            assert launch_recipe.describe([ours]) == launch_recipe.describe([theirs])
        else:
            assert ours == theirs


def test_arguments_that_share_memory_are_told_apart() -> None:
    """q and k of one packed projection, in both orders: one recipe, and it knows which is which."""
    record = custom_op.record("rotary_qk")
    packed, table = torch.randn(1, 8, 5, 64), torch.randn(5, 64)
    halves = (packed[:, :4], packed[:, 4:])
    kernel = importlib.import_module("tile_backend.lowering.kernels.rotary_qk")
    recipes = []
    for q, k in (halves, halves[::-1]):
        values = record.signature.bind((q, k, table, table))
        outputs = tuple(torch.empty_like(t) for t in halves)
        everything = (*values.values(), *outputs)
        described = launch_recipe.describe(everything)
        recipe = launch_recipe.recipe("rotary_qk", tuple(values), described, "sm_90")
        assert recipe is not None
        recipes.append(recipe)
        pointers, planned = (
            [t.data_ptr() for t in args if isinstance(t, torch.Tensor)]
            for args in (
                recipe.arguments(everything),
                kernel.plan(values, outputs, "sm_90").args,
            )
        )
        assert pointers == planned
    assert recipes[0] is recipes[1]
