"""The float64 oracle: what is widened, what is an error, and that the mode leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tile_backend.lowering import oracle
from tile_backend.lowering.custom_op import define
from tile_backend.patterns import all_fusions

define(all_fusions())

ROUNDERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "to": lambda x: x.to(torch.float32),
    "to_keyword": lambda x: x.to(dtype=torch.bfloat16),
    "to_device": lambda x: x.to("cpu", torch.float32),
    "type": lambda x: x.type(torch.float32),
    "type_as": lambda x: x.type_as(torch.zeros(1)),
    "softmax": lambda x: F.softmax(x, -1, dtype=torch.float32),
    "sum": lambda x: x.sum(-1, dtype=torch.float32),
    "zeros": lambda x: x + torch.zeros(3, dtype=torch.float32),
    "zeros_like": lambda x: torch.zeros_like(x, dtype=torch.float16) + x,
    "default": lambda x: x * torch.rand(3),
    "python": lambda x: x * torch.tensor(1 / 3),
    "complex": lambda x: torch.view_as_real(torch.polar(x.float().abs(), x.float())).sum(-1),
}


@pytest.mark.parametrize("function", ROUNDERS.values(), ids=ROUNDERS)
def test_casts_to_narrower_floats_mean_float64(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = torch.tensor([1 / 3, 2 / 3, 0.1], dtype=torch.float64)
    assert oracle.float64(function)(x).dtype == torch.float64


def test_the_result_is_exact_where_the_code_casts() -> None:
    def norm(x: torch.Tensor) -> torch.Tensor:
        hidden = x.to(torch.float32)
        return (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True))).to(x.dtype)

    x = torch.randn(5, 7)
    exact = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True))
    assert torch.equal(oracle.float64(norm)(x), exact)
    assert not torch.equal(norm(x).double(), exact)


def test_a_narrow_tensor_is_an_error_that_names_the_function() -> None:
    narrow = torch.ones(3)
    with pytest.raises(AssertionError, match=r"not exact: torch.Tensor.mul gave torch.float32"):
        oracle.float64(lambda x: (narrow * 2).sum() + x)(torch.ones(3))


def test_the_mode_leaves_the_default_dtype_and_inputs_alone() -> None:
    x = torch.ones(3)
    with pytest.raises(ZeroDivisionError), oracle.Float64(), oracle.Float64():
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32
    assert oracle.float64(lambda x: x)(x).dtype == torch.float64
    assert x.dtype == torch.float32


def test_integers_and_booleans_stay() -> None:
    mask, index = torch.tensor([True]), torch.tensor([1])
    assert [t.dtype for t in oracle.widened([mask, index])] == [torch.bool, torch.int64]


class Rotated(torch.nn.Module):
    """A buffer of complex numbers, which `Module.double` leaves narrow, and a cast."""

    angles: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("angles", torch.polar(torch.ones(2), torch.tensor([0.1, 0.2])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rotated = torch.view_as_complex(self.linear(x).float().view(-1, 2, 2)) * self.angles
        return torch.view_as_real(rotated)


def test_a_module_is_widened_as_a_copy() -> None:
    module, x = Rotated(), torch.randn(3, 4)
    wide = oracle.widened({"module": module})["module"]
    assert oracle.float64(wide)(x).dtype == torch.float64
    assert module.linear.weight.dtype == torch.float32
    assert module.angles.dtype == torch.complex64


def test_a_grouped_product_has_a_float64_form() -> None:
    rows, weights = torch.randn(5, 8), torch.randn(2, 8, 3)
    ends = torch.tensor([2, 5], dtype=torch.int32)
    exact = oracle.float64(F.grouped_mm)(rows, weights, offs=ends)
    assert torch.equal(exact[:2], rows[:2].double() @ weights[0].double())
    assert torch.equal(exact[2:], rows[2:].double() @ weights[1].double())


def test_gradients_reach_the_narrow_input() -> None:
    x = torch.tensor([0.1], requires_grad=True)
    oracle.float64(lambda x: x.float() ** 2)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_an_op_of_ours_runs_as_its_exact_reference() -> None:
    x = torch.randn(3, 5)
    exact = torch.softmax(x.double(), -1)
    for op in (torch.ops.tilegym.softmax, torch.ops.tilegym.softmax.default):
        assert torch.equal(oracle.float64(lambda x, op=op: op(x))(x), exact)
