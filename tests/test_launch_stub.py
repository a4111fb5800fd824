"""The launch path through cuda-tile's real dispatcher, on a stub of the CUDA driver."""

from __future__ import annotations

import importlib
import mmap
import warnings
from typing import Any

import pytest
import torch

from tests import fake_compiler, stub_driver
from tests.fake_compiler import Tileiras
from tests.inductor_code import first_call
from tests.kernel_compile import OPS, samples_of
from tests.op_samples import OWN_KERNEL, Case, arguments
from tests.stub_driver import STREAM, Driver
from tests.stub_launches import BF16, launched, norm, passed_by, same_words, words_of
from tile_backend.lowering import custom_op, launch, launch_abi1, launch_recipe
from tile_backend.lowering.kernels import compiled
from tile_backend.lowering.kernels.signature import signature_for

pytestmark = pytest.mark.stub


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even cuda-tile's front end: for tests of many kernels."""
    monkeypatch.setattr(compiled.Kernel, "_compiled", lambda *_: fake_compiler.FAKE_CUBIN)


def test_arguments_grid_and_stream(driver: Driver) -> None:
    x, weight = torch.randn(3, 5, 64, dtype=BF16), torch.randn(64, dtype=BF16)
    out, (launch,) = launched(driver, lambda: norm(x, weight), words=15)
    rows = x.view(15, 64), weight, out.view(15, 64), 1e-6, 0.0
    assert same_words(launch, rows)
    assert launch.words(15, 32)[1:5] == [15, 64, 64, 1]
    assert launch.grid == (1, 1, 1)  # 16 rows of 64 features a block
    assert launch.block == (1, 1, 1), "the cubin says how many threads"
    assert (launch.stream, launch.device) == (STREAM, 0)
    assert launch.kernel.startswith("rms_norm_K")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("contiguous", (True, False), ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", OWN_KERNEL, ids=str)
def test_every_op_launches_what_its_plan_says(driver: Driver, case: Case, contiguous: bool) -> None:
    values = arguments(case, BF16, contiguous=contiguous)
    outputs = case.record.op.outputs(**values)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    kernel = importlib.import_module(f"tile_backend.lowering.kernels.{case.op}")
    plan = kernel.plan(values, outputs, "sm_90")
    passed = passed_by(plan)
    count = len(words_of(passed))
    for _ in range(2):  # the second time from what was remembered
        _, (found,) = launched(driver, lambda: launch.launch(case.record, values, outputs), count)
        assert found.grid == plan.grid
        assert same_words(found, passed)


def test_rows_share_one_compiled_kernel(driver: Driver, tileiras: Tileiras) -> None:
    weight = torch.ones(64, dtype=BF16)
    for rows in (64, 33, 7, 1, 64, 33):
        _, (launch,) = launched(driver, lambda n=rows: norm(torch.ones(n, 64, dtype=BF16), weight))
        assert launch.grid == (-(-rows // 16), 1, 1)
    assert len(tileiras.compiles()) == 1
    assert len(list(tileiras.store.iterdir())) == 1


def test_numbers_make_no_kernels(driver: Driver, tileiras: Tileiras) -> None:
    x = torch.ones(4, 64, dtype=BF16)
    loaded = driver.loaded
    for eps in (1e-6, 1e-5, 0.0, 1, True):
        _, (launch,) = launched(driver, lambda e=eps: norm(x, eps=e), words=14)
        assert launch.float32(13) == pytest.approx(float(eps))
    assert driver.loaded == loaded + 1
    assert len(tileiras.compiles()) == 1


def test_a_misaligned_tensor_is_another_kernel(driver: Driver, tileiras: Tileiras) -> None:
    base = torch.ones(4 * 64 + 1, dtype=BF16)
    for offset in (0, 1, 0, 1):
        x = base[offset : offset + 256].view(4, 64)
        _, (launch,) = launched(driver, lambda x=x: norm(x), words=1)
        assert launch.words(1) == [x.data_ptr()]
    assert len(tileiras.compiles()) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("op", OPS)
def test_what_was_built_from_meta_tensors_is_what_a_launch_looks_for(
    driver: Driver, tileiras: Tileiras, op: str
) -> None:
    """A store filled without a GPU, and then no compiler."""
    module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
    samples = samples_of(op)
    for values, outputs in samples.values():
        plan = module.plan(values, outputs, "sm_90")
        plan.kernel.build(plan.kernel.code(signature_for(plan.kernel, plan.args), "sm_90"))
    tileiras.remove()
    compiled.kernel.cache_clear()
    launch_recipe.recipe.cache_clear()
    record = custom_op.record(op)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values, outputs in samples.values():
            given = record.signature.bind((), {n: allocated(v) for n, v in values.items()})
            results = [allocated(out) for out in outputs]
            _, launches = launched(driver, lambda g=given, r=results: launch.launch(record, g, r))
            assert len(launches) == 1


def allocated(value: Any) -> Any:
    """A tensor like a meta tensor, in memory that nobody touches."""
    if not isinstance(value, torch.Tensor):
        return value
    storage = torch.empty(value.untyped_storage().nbytes(), dtype=torch.uint8).view(value.dtype)
    return storage.as_strided(value.shape, value.stride(), value.storage_offset())


def test_empty_tensors_are_not_launched(driver: Driver) -> None:
    out, launches = launched(driver, lambda: norm(torch.empty(0, 64, dtype=BF16)))
    assert (out.shape, launches) == ((0, 64), [])
    q, k = torch.empty(2, 4, 0, 64, dtype=BF16), torch.empty(2, 2, 8, 64, dtype=BF16)
    record = custom_op.record("attention")
    absent = dict.fromkeys(("mask", "padding", "segments", "offset", "sinks"))
    values = record.signature.bind((), {"q": q, "k": k, "v": k, **absent, "scale": 0.125})
    _, launches = launched(driver, lambda: launch.launch(record, values, (torch.empty_like(q),)))
    assert launches == []


def test_a_dead_output_is_not_written(driver: Driver) -> None:
    x = torch.randn(4, 64, dtype=BF16)
    total, weight = torch.empty_like(x), torch.ones(64, dtype=BF16)
    call = (x, x.clone(), weight, 1e-6, 0.0, "once")
    _, (found,) = launched(driver, lambda: launch_abi1.add_rms_norm(*call, None, total), 30)
    assert total.data_ptr() in found.words(30)


@pytest.mark.usefixtures("quick")
def test_an_absent_tensor_is_another_kind_of_call(driver: Driver) -> None:
    q, k, v = (torch.randn(1, 2, 16, 64, dtype=BF16) for _ in "qkv")
    mask, out = torch.randn(1, 1, 16, 16, dtype=BF16), torch.empty_like(q)
    absent, numbers = (None,) * 4, (0.125, False, 0, None, None, None, None, "sdpa")
    for given in (None, mask, None, mask):
        _, (found,) = launched(
            driver,
            lambda m=given: launch_abi1.attention(q, k, v, m, *absent, *numbers, out=out),
            32,
        )
        assert (mask.data_ptr() in found.words(32)) is (given is not None)


MAP_NORESERVE = 0x4000
"""Of Linux: pages that nobody touches cost nothing, however many. In `mmap` from Python 3.13 on."""


def huge(*shape: int) -> torch.Tensor:
    """A contiguous bfloat16 tensor of more elements than there may be memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    pages = mmap.mmap(-1, 2 * torch.Size(shape).numel(), flags=flags)
    return torch.frombuffer(pages, dtype=BF16).view(shape)


def test_more_elements_than_an_int32_counts(driver: Driver, tileiras: Tileiras) -> None:
    rows = 2**20 + 3
    x, weight = huge(rows, 4096), torch.ones(4096, dtype=BF16)
    out = huge(rows, 4096)
    _, (found,) = launched(
        driver, lambda: launch_abi1.rms_norm(x, weight, 1e-6, 0.0, "once", out=out), 15
    )
    assert found.grid == (rows, 1, 1)
    assert found.words(13) == words_of((x, weight, out)), "sizes and strides of 64 bits"
    small = torch.ones(4, 4096, dtype=BF16)
    norm(small, weight)
    assert len(tileiras.compiles()) == 2


def test_a_stride_beyond_an_int32(driver: Driver) -> None:
    apart = huge(2, 2**31 + 64)[:, :64]
    out, (found,) = launched(driver, lambda: norm(apart), 13)
    assert found.words(5) == [apart.data_ptr(), 2, 64, 2**31 + 64, 1]
    assert out.shape == (2, 64)


def test_the_device_of_the_tensors_is_made_current(driver: Driver) -> None:
    with stub_driver.gpu(driver, device=1):
        for _ in range(2):
            _, (found,) = launched(driver, lambda: norm(torch.ones(4, 64, dtype=BF16)))
            assert (found.stream, found.device) == (2 * STREAM, 1)
    assert driver.number("current_device").value == 0


def test_each_architecture_has_its_own_code(driver: Driver, tileiras: Tileiras) -> None:
    x = torch.ones(4, 64, dtype=BF16)
    norm(x)
    with stub_driver.gpu(driver, device=1):
        norm(x)
    architectures = [run[run.index("--gpu-name") + 1] for run in tileiras.compiles()]
    assert architectures == ["sm_90", "sm_100"]


FORBIDDEN = (
    "cuCtxSynchronize cuStreamSynchronize cuStreamWaitEvent cuMemAlloc cuMemAllocHost cuMemFree"
    " cuMemFreeHost cuMemcpyHtoDAsync cuEventQuery cuLibraryUnload"
).split()
"""What would end or spoil a capture."""


def test_a_launch_can_be_captured(driver: Driver) -> None:
    x = torch.ones(2, 4, 64, dtype=BF16)
    driver.number("capturing").value = 1
    try:
        for _ in range(2):
            driver.forget_calls()
            _, (found,) = launched(driver, lambda: norm(x))
            assert found.stream == STREAM
            assert {name: driver.calls(name) for name in FORBIDDEN} == dict.fromkeys(FORBIDDEN, 0)
    finally:
        driver.number("capturing").value = 0


def test_a_warm_launch_asks_the_driver_for_little(driver: Driver) -> None:
    x = torch.ones(4, 64, dtype=BF16)
    norm(x)
    driver.forget_calls()
    norm(x)
    assert driver.calls("cuLaunchKernelEx") == 1
    for entry in ("cuLibraryLoadData", "cuLibraryGetKernel", "cuDeviceGetAttribute", "cuMemAlloc"):
        assert driver.calls(entry) == 0


def test_addresses_that_come_back_and_others(driver: Driver) -> None:
    """Views are remembered by address: each launch must get its own tensors all the same."""
    weight = torch.ones(64, dtype=BF16)
    kept = [torch.ones(2, 3, 64, dtype=BF16) for _ in range(5)]
    out = torch.empty(2, 3, 64, dtype=BF16)
    norm_of = launch_abi1.rms_norm
    for x in [*kept, *kept, *(torch.ones(2, 3, 64, dtype=BF16) for _ in range(20))]:
        _, (found,) = launched(
            driver, lambda x=x: norm_of(x, weight, 1e-6, 0.0, "once", out=out), 13
        )
        assert same_words(found, (x.view(6, 64), weight, out.view(6, 64)))


def test_remembered_addresses_hold_no_memory(driver: Driver) -> None:
    def holders() -> int:
        return int(torch._C._storage_Use_Count(x.untyped_storage()._cdata))

    x = torch.ones(2, 3, 64, dtype=BF16)
    before = holders()
    norm(x)
    assert holders() == before


@pytest.mark.slow
def test_generated_code_launches_on_planned_buffers(driver: Driver) -> None:
    """A compiled graph: one launch per op and call, in order, on what the graph's planner owns."""
    weight = torch.randn(64, dtype=BF16)
    ops = torch.ops.tilegym

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        normed, total = ops.add_rms_norm(x, y, weight, 1e-6)
        return ops.silu_mul(normed, total).relu()

    x, y = torch.randn(2, 16, 64, dtype=BF16), torch.randn(2, 16, 64, dtype=BF16)
    torch._dynamo.reset()
    once = torch.compile(function)
    _, launches = launched(driver, lambda: first_call(once, x, y), 15)
    assert [found.kernel.partition("_K")[0] for found in launches] == ["add_rms_norm", "silu_mul"]
    _, again = launched(driver, lambda: once(x, y), 15)
    assert [found.grid for found in again] == [found.grid for found in launches]
    for first, second in (launches, again):
        read = first.words(15)
        assert (read[0], read[5], read[10]) == (x.data_ptr(), y.data_ptr(), weight.data_ptr())
        assert second.words(1) == [read[13]], "silu_mul reads what add_rms_norm wrote"
