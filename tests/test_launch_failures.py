"""Launches that cannot be: no compiler, a broken one, a damaged store, a driver that says no."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.fake_compiler import Tileiras
from tests.stub_driver import Driver
from tests.stub_launches import BF16, launched, norm
from tile_backend.lowering import kernel_launch, launch, launch_recipe
from tile_backend.lowering.kernels import compiled

pytestmark = pytest.mark.stub


def test_neither_store_nor_compiler_runs_the_reference(driver: Driver, tileiras: Tileiras) -> None:
    tileiras.remove()
    x = torch.randn(4, 64, dtype=BF16)
    words = "rms_norm for sm_90 is not in the kernel store .*precompile TARGET --arch sm_90"
    with pytest.warns(launch.KernelFallbackWarning, match=words):
        out, launches = launched(driver, lambda: norm(x))
    assert launches == []
    assert torch.equal(out, torch.ops.tilegym.rms_norm(x, torch.ones(64, dtype=BF16), 1e-6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(norm(x), out)


@pytest.mark.parametrize("body", ("exit 5", "kill -SEGV $$", "sleep 600"))
def test_a_broken_compiler_costs_one_warning(
    driver: Driver, tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setenv("CUDA_TILE_COMPILER_TIMEOUT_SEC", "0.5")
    tileiras.compiles_with(body)
    x = torch.randn(4, 64, dtype=BF16)
    with pytest.warns(launch.KernelFallbackWarning, match="compiling rms_norm for sm_90"):
        out, launches = launched(driver, lambda: norm(x))
    assert launches == []
    assert torch.equal(out, torch.ops.tilegym.rms_norm(x, torch.ones(64, dtype=BF16), 1e-6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norm(x)
    assert len(tileiras.compiles()) == 1


def test_a_damaged_store_is_compiled_anew(driver: Driver, tileiras: Tileiras) -> None:
    x = torch.randn(4, 64, dtype=BF16)
    norm(x)
    (file,) = tileiras.store.iterdir()
    file.write_bytes(b"not a kernel")
    compiled.kernel.cache_clear()
    launch_recipe.recipe.cache_clear()
    kernel_launch._calls.clear()
    with pytest.warns(RuntimeWarning, match="is ignored"):
        _, launches = launched(driver, lambda: anew(x))
    assert len(launches) == 1
    assert len(tileiras.compiles()) == 2


def anew(x: torch.Tensor) -> torch.Tensor:
    """`norm` by a launcher that was not there before."""
    call = launch.launcher("rms_norm")
    weight = torch.ones(x.shape[-1], dtype=x.dtype)
    result: torch.Tensor = call(x, weight, 1e-6, 0.0, "once", out=torch.empty_like(x))
    return result


def test_a_driver_that_does_not_take_the_code(driver: Driver) -> None:
    driver.number("load_error").value = 209
    try:
        with pytest.warns(launch.KernelFallbackWarning, match="a newer NVIDIA driver may take it"):
            out, launches = launched(driver, lambda: norm(torch.ones(4, 64, dtype=BF16)))
    finally:
        driver.number("load_error").value = 0
    assert launches == []
    assert out.float().mean() == pytest.approx(1.0, rel=1e-2)


def test_a_failed_launch_runs_the_reference(driver: Driver) -> None:
    """Where the device is lost, that raises what torch raises then."""
    x = torch.randn(4, 64, dtype=BF16)
    norm(x)
    driver.number("launch_error").value = 700
    try:
        with pytest.warns(launch.KernelFallbackWarning, match="Failed to launch"):
            out = norm(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(norm(x), out)
    finally:
        driver.number("launch_error").value = 0
    assert torch.equal(out, torch.ops.tilegym.rms_norm(x, torch.ones(64, dtype=BF16), 1e-6))


def test_a_refusal_of_misaligned_tensors_is_no_refusal_of_others(
    driver: Driver, tileiras: Tileiras
) -> None:
    """The store has the usual kernel, and nothing compiles the other one."""
    base = torch.randn(4 * 64 + 1, dtype=BF16)
    aligned, odd = base[:256].view(4, 64), base[1:].view(4, 64)
    norm(aligned)
    tileiras.remove()
    for _ in range(2):
        compiled.kernel.cache_clear()
        launch_recipe.recipe.cache_clear()
        kernel_launch.warn_once.cache_clear()
        with pytest.warns(launch.KernelFallbackWarning, match="is not in the kernel store"):
            assert launched(driver, lambda: norm(odd))[1] == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(launched(driver, lambda: norm(aligned))[1]) == 1
            assert launched(driver, lambda: norm(odd))[1] == []
        kernel_launch._calls["rms_norm"].recent = ()  # now the odd one comes first
