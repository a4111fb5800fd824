"""Launches on a GPU; test_launch_stub has the same on a stub of the driver."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Iterator

import pytest
import torch

from tile_backend.lowering import custom_op, kernel_launch, launch_recipe, oracle
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
    """Within the budget of the float64 oracle."""
    reference = custom_op.record("rms_norm").op.reference
    exact = oracle.float64(reference)(x, None, 1e-6)
    verdict = oracle.within_budget(ours, exact, reference(x, None, 1e-6))
    assert verdict, str(verdict)


def test_on_the_current_stream() -> None:
    x = torch.randn(256, 4096, dtype=BF16, device="cuda")
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
        x = torch.randn(16, 1024, dtype=BF16, device=f"cuda:{index}")
        check(x, norm(x))
        assert torch.cuda.current_device() == current


@pytest.mark.parametrize("warm", (True, False))
def test_in_a_captured_graph(warm: bool) -> None:
    width = 1024 if warm else 1536  # a kernel that no other test has launched
    x = torch.randn(4, 8, width, dtype=BF16, device="cuda")
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
    base = torch.randn(16 * 1024 + 1, dtype=BF16, device="cuda")
    for offset in (0, 1, 0):
        x = base[offset : offset + 16 * 1024].view(16, 1024)
        check(x, norm(x))
    assert norm(base[:0].view(0, 1024)).shape == (0, 1024)


def test_more_elements_than_an_int32_counts() -> None:
    rows = 2**20 + 3
    x = torch.randn(64, 2048, dtype=BF16, device="cuda").repeat(rows // 64 + 1, 1)[:rows]
    assert x.numel() > 2**31
    ours = norm(x)
    check(x[:64], ours[:64])
    check(x[-64:], ours[-64:])


def test_from_a_store_without_a_compiler(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEGYM_KERNEL_STORE", str(tmp_path))
    x = torch.randn(16, 1280, dtype=BF16, device="cuda")
    check(x, norm(x))
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(tileiras, "found", lambda: MissingError("no compiler in this test"))
    monkeypatch.setattr(kernel_launch, "_calls", {})
    compiled.kernel.cache_clear()
    launch_recipe.recipe.cache_clear()
    check(x, norm(x))
