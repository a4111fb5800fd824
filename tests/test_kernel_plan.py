"""Plans from meta tensors: grids in range, nothing launched for nothing, clear limits."""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any

import cuda.tile as ct
import pytest
import torch
from cuda.tile.compilation import ArrayConstraint

from tests.kernel_compile import ARCHITECTURES, OPS, samples_of
from tests.kernel_plans import meta, plan
from tile_backend.lowering.kernels.attention import attention
from tile_backend.lowering.kernels.launch_plan import (
    FLOATS,
    MAX_GRID,
    KernelLimit,
    Launch,
)
from tile_backend.lowering.kernels.signature import parameter_annotations, signature_for
from tile_backend.lowering.reason import ReasonKind


def first_sample(op: str) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
    arguments, outputs = next(iter(samples_of(op).values()))
    return dict(arguments), outputs


@pytest.mark.parametrize("op", OPS)
def test_samples_have_a_launch_on_every_architecture(op: str) -> None:
    module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
    for arch in ARCHITECTURES:
        for arguments, outputs in samples_of(op).values():
            found = module.plan(arguments, outputs, arch)
            assert all(1 <= n <= most for n, most in zip(found.grid, MAX_GRID, strict=True))
            assert len(found.args) == len(parameter_annotations(found.kernel))


@pytest.mark.parametrize("op", OPS)
def test_no_array_argument_is_a_copy(op: str) -> None:
    for arguments, outputs in samples_of(op).values():
        module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
        # Real storages, never touched: a view shares its base's, a copy has one of its own.
        real = {name: to_cpu(value) for name, value in arguments.items()}
        results = tuple(to_cpu(out) for out in outputs)
        ours = {
            value.untyped_storage().data_ptr()
            for value in (*real.values(), *results)
            if isinstance(value, torch.Tensor)
        }
        found = module.plan(real, results, "sm_90")
        arrays = [arg for arg in found.args if isinstance(arg, torch.Tensor)]
        assert {array.untyped_storage().data_ptr() for array in arrays} <= ours


def to_cpu(value: Any) -> Any:
    """A CPU tensor with the shape and strides of a meta tensor, on memory nobody touches."""
    if not isinstance(value, torch.Tensor):
        return value
    storage = torch.empty(
        value.untyped_storage().nbytes() // value.element_size(), dtype=value.dtype
    )
    return storage.as_strided(value.shape, value.stride(), value.storage_offset())


@pytest.mark.parametrize("op", OPS)
def test_floats_stay_floats(op: str) -> None:
    arguments, outputs = first_sample(op)
    as_integers = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in arguments.items()
    }
    one, two = plan(op, arguments, *outputs), plan(op, as_integers, *outputs)
    assert one is not None
    assert two is not None
    assert [type(arg) for arg in one.args] == [type(arg) for arg in two.args]


@pytest.mark.parametrize("op", OPS)
def test_the_kernel_object_is_made_once(op: str) -> None:
    arguments, outputs = first_sample(op)
    one, two = plan(op, arguments, *outputs), plan(op, arguments, *outputs)
    assert one is not None
    assert two is not None
    assert one.kernel is two.kernel


@pytest.mark.parametrize("op", OPS)
def test_float64_is_refused_by_name(op: str) -> None:
    arguments, outputs = first_sample(op)
    name = next(name for name, value in arguments.items() if isinstance(value, torch.Tensor))
    wide = {
        key: value.double() if isinstance(value, torch.Tensor) else value
        for key, value in arguments.items()
    }
    with pytest.raises(KernelLimit, match=f"`{name}` is torch.float64; the kernels take") as error:
        plan(op, wide, *outputs)
    assert error.value.reason.kind is ReasonKind.DTYPE_LIMIT


def test_empty_tensors_are_not_launched() -> None:
    x = meta(0, 64)
    for op, inputs in (
        ("rms_norm", {"x": x, "weight": None, "eps": 1e-6}),
        ("layer_norm", {"x": x, "weight": None, "bias": None, "eps": 1e-6}),
        ("silu_mul", {"gate": x, "up": x}),
        ("gelu_mul", {"gate": x, "up": x}),
        ("softmax", {"x": x, "dtype": None}),
        ("rotary", {"x": x, "cos": meta(64), "sin": meta(64)}),
        ("rms_norm_add", {"x": x, "residual": x, "weight": None, "eps": 1e-6}),
    ):
        assert plan(op, inputs, torch.empty_like(x)) is None
    pair = {"x": x, "residual": x, "weight": None, "eps": 1e-6}
    assert plan("add_rms_norm", pair, torch.empty_like(x), torch.empty_like(x)) is None
    q, k = meta(2, 4, 0, 64), meta(2, 4, 8, 64)
    assert plan("attention", {"q": q, "k": k, "v": k, "mask": None, "scale": 1.0}, q) is None


def test_a_dead_output_is_not_written() -> None:
    x = meta(8, 64)
    arguments = {"x": x, "residual": x, "weight": None, "eps": 1e-6}
    found = plan("add_rms_norm", arguments, None, torch.empty_like(x))
    assert found is not None
    assert found.args[-2:] == (False, True)
    assert plan("add_rms_norm", arguments, None, None) is None


def test_rows_of_a_transposed_input_are_one_dimension() -> None:
    x = meta(2, 64, 8, 128).transpose(1, 2)
    found = plan("rms_norm", {"x": x, "weight": None, "eps": 1e-6}, torch.empty_like(x))
    assert found is not None
    assert found.args[0].shape == (2 * 64 * 8, 128)


def test_packed_halves_are_read_in_place() -> None:
    gate, up = meta(4, 16, 256).chunk(2, dim=-1)
    found = plan("silu_mul", {"gate": gate, "up": up}, meta(4, 16, 128))
    assert found is not None
    assert [tuple(view.stride()) for view in found.args[:3]] == [(256, 1), (256, 1), (128, 1)]


def test_one_query_per_head_packs_the_group() -> None:
    q, k = meta(2, 32, 1, 128), meta(2, 8, 512, 128)
    arguments = {"q": q, "k": k, "v": k, "mask": None, "scale": 1.0}
    found = plan("attention", arguments, torch.empty_like(q))
    assert found is not None
    assert found.grid == (1, 8, 2)
    assert found.args[0].shape == (2, 8, 4, 128)
    place = {"is_causal": True, "offset": meta(dtype=torch.int64), "sinks": meta(32)}
    cached = plan("attention", {**arguments, **place}, torch.empty_like(q))
    assert cached is not None
    assert cached.grid == (1, 8, 2)
    assert (8, 4) in [x.shape for x in cached.args if isinstance(x, torch.Tensor)], "sinks"


def fill_of(launch: Launch) -> Any:
    return launch.args[list(inspect.signature(attention).parameters).index("fill")]


def test_a_finite_fill_stays_finite() -> None:
    q = meta(1, 1, 32, 64)
    lowest = torch.finfo(torch.float32).min
    arguments = {"q": q, "k": q, "v": q, "mask": meta(32, 32, dtype=torch.bool), "scale": 1.0}
    found = plan("attention", {**arguments, "fill": lowest}, torch.empty_like(q))
    infinite = plan("attention", {**arguments, "fill": -math.inf}, torch.empty_like(q))
    assert found is not None
    assert infinite is not None
    assert fill_of(found) == lowest
    assert fill_of(infinite) == -math.inf


def test_the_float_dtypes_are_those_of_the_ops() -> None:
    assert set(FLOATS) == {torch.float32, torch.bfloat16, torch.float16}


def index_dtypes(found: Any) -> set[Any]:
    parameters = signature_for(found.kernel, found.args).parameters
    return {p.index_dtype for p in parameters if isinstance(p, ArrayConstraint)}


@pytest.mark.parametrize(
    ("stride", "indices"), ((2**15, ct.int32), (2**31 - 2**15 - 1, ct.int32), (2**31, ct.int64))
)
def test_tensors_that_span_more_than_int32_get_the_wide_kernel(stride: int, indices: Any) -> None:
    """The last element counts, not how many there are: a slice of a large tensor is as wide."""
    x = torch.empty(0, dtype=torch.bfloat16, device="meta").as_strided((2, 2**15), (stride, 1))
    found = plan("silu_mul", {"gate": x, "up": x}, meta(2, 2**15))
    assert found is not None
    assert index_dtypes(found) == {indices}
    again = plan("silu_mul", {"gate": x, "up": x}, meta(2, 2**15))
    assert again is not None
    assert again.kernel is found.kernel, "a wide kernel is made once as well"
