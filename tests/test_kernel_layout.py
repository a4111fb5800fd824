"""Views that row kernels walk, and signatures built from them, are what the launcher would see."""

from __future__ import annotations

import cuda.tile as ct
import pytest
import torch

from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.row_layout import (
    RowTile,
    merged,
    next_power_of_two,
    row_grid,
    row_tile,
    row_vector,
)
from tile_backend.lowering.kernels.signature import overlaps, signature_for, weaken


def copy_rows(x: ct.Array, scale: float, N: ct.Constant[int]) -> None:
    """A kernel that only its signature is looked at."""


def rows(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize(
    ("view", "shape"),
    (
        (rows((4, 6)), (4, 6)),
        (rows((6,)), (1, 6)),
        (rows((1, 6)), (1, 6)),
        (rows((2, 3, 4, 6)), (24, 6)),
        (rows((2, 3, 4, 6)).transpose(1, 2), (24, 6)),
        (rows((2, 3, 4, 12))[..., 6:], (24, 6)),
        (rows((2, 5, 4, 6))[:, :3], (2, 12, 6)),
        (rows((2, 5, 5, 6))[:, :3, 1:], (2, 3, 4, 6)),
        (rows((3, 6)).expand(4, 3, 6), (3, 4, 6)),
    ),
)
def test_merged_views_hold_the_same_rows(view: torch.Tensor, shape: tuple[int, ...]) -> None:
    (found,) = merged((view,))
    assert found.shape == shape
    assert found.untyped_storage().data_ptr() == view.untyped_storage().data_ptr()
    expected = sorted(row.tolist() for row in view.reshape(-1, view.shape[-1]))
    assert sorted(row.tolist() for row in found.reshape(-1, found.shape[-1])) == expected


def test_tensors_are_merged_alike() -> None:
    x, out = rows((2, 3, 4, 6)).transpose(1, 2), torch.empty(2, 4, 3, 6)
    first, second = merged((out, x))
    second.mul_(1.0)
    first.copy_(second)
    assert torch.equal(out, x)


def test_row_tiles_hold_1024_elements_or_one_row() -> None:
    assert row_tile(128) == RowTile(8, 128, 4)
    assert row_tile(1000) == RowTile(1, 1024, 4)
    assert row_tile(11008) == RowTile(1, 2048, 8)
    assert [next_power_of_two(n) for n in (0, 1, 3, 8)] == [1, 1, 4, 8]


def test_the_grid_walks_leading_dimensions_innermost_first() -> None:
    assert row_grid(torch.empty(2, 3, 20, 64), 16) == (2, 3, 2)
    assert row_grid(torch.empty(20, 64), 1) == (20, 1, 1)


def test_a_weight_is_one_row() -> None:
    weight = rows((6,))
    assert torch.equal(row_vector("weight", weight.reshape(1, 1, 6), 6), weight)
    assert torch.equal(row_vector("weight", rows((1,)), 6), torch.zeros(6))


def test_a_signature_says_what_the_launcher_sees() -> None:
    x = torch.empty(4, 32, dtype=torch.bfloat16)[:, 8:]
    array, scalar, constant = signature_for(kernel(copy_rows), (x, 1.0, 24)).parameters
    assert array.dtype is ct.bfloat16
    assert array.stride_constant == (None, 1)
    assert array.stride_divisible_by == (8, 1)
    assert array.shape_divisible_by == (1, 1)
    assert array.base_addr_divisible_by == 16
    assert scalar.dtype is ct.float32
    assert constant.value == 24


def test_an_odd_offset_is_not_aligned() -> None:
    for device in ("cpu", "meta"):
        x = torch.empty(64, dtype=torch.bfloat16, device=device)[1:17]
        assert (
            signature_for(kernel(copy_rows), (x, 1.0, 1)).parameters[0].base_addr_divisible_by == 1
        )


def test_arguments_that_the_launcher_refuses() -> None:
    with pytest.raises(TypeError, match="a kernel takes tensors and numbers, not NoneType"):
        signature_for(kernel(copy_rows), (None, 1.0, 1))
    with pytest.raises(TypeError, match="a kernel cannot read torch.complex64"):
        signature_for(kernel(copy_rows), (torch.empty(2, dtype=torch.complex64), 1.0, 1))


def test_a_weaker_signature_serves_more_shapes_and_keeps_wide_accesses() -> None:
    def weak(count: int, width: int) -> str:
        x = torch.empty(count, width, dtype=torch.bfloat16, device="meta")
        made = kernel(copy_rows)
        weaker = weaken(signature_for(made, (x, 1.0, 1)), made)
        return str(weaker.with_mangled_symbol("k").symbol)

    assert weak(1, 64) == weak(33, 64) == weak(64, 128)
    assert weak(64, 64) != weak(64, 72), "16 elements at a time need the row to be divisible"


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    (
        ((4, 8), (8, 1), False),
        ((4, 8), (0, 1), True),
        ((5, 8), (7, 1), True),
        ((4, 8), (16, 2), False),
        ((1, 8), (0, 1), True),
        ((1, 1, 2), (1, 3, 2), True),
    ),
)
def test_overlap_is_judged_as_the_launcher_does(
    shape: tuple[int, ...], strides: tuple[int, ...], expected: bool
) -> None:
    assert overlaps(torch.empty(100).as_strided(shape, strides)) is expected
