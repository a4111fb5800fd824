"""Launches on a GPU; test_launch_stub has the same on a stub of the driver."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Iterator

import pytest
import torch

from tests.gpu_kit.calls import norm_input, norm_values
from tests.gpu_kit.needed import code_of
from tests.kernel_check import verdict_on
from tile_backend.lowering import cubin_store, cuda_state, custom_op, kernel_launch, launch_recipe
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.kernels import compiled, tileiras
from tile_backend.lowering.kernels.build_error import MissingError
from tile_backend.patterns import all_fusions

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16
custom_op.define(all_fusions())


@pytest.fixture(autouse=True)
def kernels_only() -> Iterator[None]:
    """A reference in the place of a kernel is a failure."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


def norm(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.ops.tilegym.rms_norm(x, None, 1e-6)
    return result


def check(x: torch.Tensor, ours: torch.Tensor) -> None:
    """Within the budget that the reference's errors give."""
    op = custom_op.record("rms_norm")
    given = {"x": x, "weight": None, "eps": 1e-6}
    (verdict,) = verdict_on(op, op.signature.bind((), given), [ours])
    assert verdict, str(verdict)


def test_on_the_current_stream() -> None:
    x = norm_input("on a stream", "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles: on another stream the kernel would not wait
        x.mul_(2.0)
        ours = norm(x)
    torch.cuda.current_stream().wait_stream(stream)
    check(x, ours)


def test_on_the_device_of_the_tensors() -> None:
    current = torch.cuda.current_device()
    for index in range(torch.cuda.device_count()):
        x = norm_input("on a device", f"cuda:{index}")
        check(x, norm(x))
        assert torch.cuda.current_device() == current


@pytest.mark.parametrize("warm", (True, False))
def test_in_a_captured_graph(warm: bool) -> None:
    x = norm_input("in a warm graph" if warm else "in a cold graph", "cuda")
    if warm:
        norm(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours = norm(x)
    for _ in range(2):
        x.copy_(torch.randn_like(x))
        graph.replay()
        check(x, ours)


def test_misaligned_and_empty_tensors() -> None:
    for name in ("on a device", "misaligned", "on a device"):
        x = norm_input(name, "cuda")
        assert (x.data_ptr() % 16 != 0) == (name == "misaligned")
        check(x, norm(x))
    assert norm(x[:0]).shape == (0, 1024)


def test_more_elements_than_an_int32_counts() -> None:
    x = norm_input("wide", "cuda")
    assert x.numel() > 2**31
    ours = norm(x)
    check(x[:64], ours[:64])
    check(x[-64:], ours[-64:])


def test_from_a_store_without_a_compiler(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = norm_input("from a store", "cuda")
    code = code_of("rms_norm", norm_values("from a store"), cuda_state.architecture(0))
    assert code is not None
    made = code.kernel.build(code)
    monkeypatch.setenv("TILEGYM_KERNEL_STORE", str(tmp_path))
    assert cubin_store.default().put(code.key, "13.4.0", made)
    monkeypatch.setattr(tileiras, "found", lambda: MissingError("no compiler in this test"))
    for cache in (compiled.kernel, launch_recipe.recipe):
        cache.cache_clear()
    check(x, norm(x))
    monkeypatch.setattr(kernel_launch, "_calls", {})
    with pytest.raises(KernelFallbackWarning, match="is not in the kernel store"):
        norm(norm_input("in a cold graph", "cuda"))
