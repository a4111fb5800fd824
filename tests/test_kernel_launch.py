"""What a launch is made of, and when the reference runs instead; plan and launcher are ours."""

from __future__ import annotations

import contextlib
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tile_backend.lowering import cuda_state, kernel_launch, launch
from tile_backend.lowering.kernels.build_error import BuildError
from tile_backend.lowering.kernels.launch_plan import KernelLimit, Launch
from tile_backend.lowering.reason import ReasonKind

pytestmark = pytest.mark.usefixtures("fresh_launcher")


class Stub:
    """Stands for cuda.tile, one kernel and a GPU that has CPU tensors; records launches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: Any) -> None:
        self.launches: list[tuple[Any, ...]] = []
        self.current = 0
        module = types.SimpleNamespace(plan=plan)
        monkeypatch.setitem(sys.modules, "tile_backend.lowering.kernels.rms_norm", module)
        tile = types.SimpleNamespace(launch=lambda *args: self.launches.append(args))
        monkeypatch.setitem(sys.modules, "cuda.tile", tile)
        monkeypatch.setattr(kernel_launch, "gpu_of", lambda tensor: 0)
        monkeypatch.setattr(cuda_state, "architecture", lambda device: "sm_90")
        monkeypatch.setattr(cuda_state, "current_device", lambda: self.current)
        monkeypatch.setattr(cuda_state, "raw_stream", lambda device: 77 + device)
        monkeypatch.setattr(cuda_state, "on", self.on)

    @contextlib.contextmanager
    def on(self, device: int) -> Iterator[None]:
        before, self.current = self.current, device
        yield
        self.current = before

    def run(self, rows: int = 2, op: str = "rms_norm") -> bool:
        """One call, as if its tensors were on a GPU."""
        x = torch.ones(rows, 4)
        calls = kernel_launch.calls_of(op, NAMES)
        return calls.launched((x, None, 1e-6, 0.0, "once", torch.empty_like(x)))


NAMES = ("x", "weight", "eps", "offset", "rounding")
KERNEL = types.SimpleNamespace(name="k")


def identity_plan(values: Any, outputs: Any, arch: str) -> Launch:
    """A kernel that takes tensors as they come."""
    return Launch(KERNEL, (4, 1, 1), (values["x"], *outputs, 1e-6))


def test_a_kernel_is_launched_on_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def plan(values: Any, outputs: Any, arch: str) -> Launch:
        seen.append((list(values), len(outputs), arch))
        return identity_plan(values, outputs, arch)

    stub = Stub(monkeypatch, plan)
    assert stub.run()
    ((stream, grid, kernel, args),) = stub.launches
    assert (stream, grid, kernel, len(args)) == (77, (4, 1, 1), KERNEL, 3)
    assert seen == [(list(NAMES), 1, "sm_90")]


def test_a_plan_is_made_once_per_kind_of_call(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []

    def plan(values: Any, outputs: Any, arch: str) -> Launch:
        planned.append(values["x"].shape[0])
        return identity_plan(values, outputs, arch)

    stub = Stub(monkeypatch, plan)
    sizes = [2, 3, 2, 3, *range(2, 30), 2]
    for rows in sizes:
        assert stub.run(rows)
    assert [args[0].shape[0] for _, _, _, args in stub.launches] == sizes
    assert sorted(planned) == list(range(2, 30))
    assert len(kernel_launch.calls_of("rms_norm", NAMES).recent) == kernel_launch.KINDS


def test_another_device_is_made_current_for_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, identity_plan)
    monkeypatch.setattr(kernel_launch, "gpu_of", lambda tensor: 3)
    during: list[int] = []
    tile = types.SimpleNamespace(launch=lambda *args: during.append((stub.current, args[0])))
    monkeypatch.setitem(sys.modules, "cuda.tile", tile)
    assert stub.run()
    assert stub.run()
    assert during == [(3, 80), (3, 80)]
    assert stub.current == 0


def test_nothing_to_compute_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, lambda values, outputs, arch: None)
    assert stub.run()
    assert stub.run()
    assert not stub.launches


REFUSALS = [
    (KernelLimit(ReasonKind.DTYPE_LIMIT, "`x` is float64"), "not a kernel: `x` is float64$"),
    (BuildError("tileiras crashed", fix="mend it"), r"a kernel: tileiras crashed \(mend it\)$"),
]


@pytest.mark.parametrize(("error", "words"), REFUSALS, ids=lambda value: type(value).__name__)
def test_a_refusal_is_one_warning_and_asked_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    asked: list[Any] = []

    def plan(*values: Any) -> Launch:
        asked.append(values)
        raise error

    stub = Stub(monkeypatch, plan)
    with pytest.warns(launch.KernelFallbackWarning, match=f"tilegym.rms_norm runs its .*{words}"):
        assert not stub.run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not stub.run()
        assert len(asked) == 1
        assert not stub.run(rows=3)
    assert len(asked) == 2


def test_a_driver_that_does_not_take_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("Failed to load CUDA library: no kernel image is available")

    stub = Stub(monkeypatch, identity_plan)
    tile = types.SimpleNamespace(launch=refuse)
    monkeypatch.setitem(sys.modules, "cuda.tile", tile)
    words = "no kernel image is available; a newer NVIDIA driver may take it"
    with pytest.warns(launch.KernelFallbackWarning, match=words):
        assert not stub.run()
    assert not stub.run()


def test_a_failed_launch_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Failed to launch cuTile kernel: an illegal memory access")

    stub = Stub(monkeypatch, identity_plan)
    tile = types.SimpleNamespace(launch=fail)
    monkeypatch.setitem(sys.modules, "cuda.tile", tile)
    with pytest.warns(launch.KernelFallbackWarning, match="RuntimeError: .*illegal memory access"):
        assert not stub.run()
    assert not stub.run()
    assert not stub.launches


def test_a_bug_in_a_kernel_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(*_: Any) -> Launch:
        raise IndexError("a bug")

    stub = Stub(monkeypatch, plan)
    with pytest.warns(launch.KernelFallbackWarning, match="reference, not a kernel: IndexError: a"):
        assert not stub.run()
    assert not stub.launches


def test_without_cuda_tile_the_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = Stub(monkeypatch, None)
    monkeypatch.setitem(sys.modules, "cuda.tile", None)
    words = r"cuda-tile cannot be imported .*pip install 'tile-backend\[kernels\]'"
    with pytest.warns(launch.KernelFallbackWarning, match=words):
        assert not stub.run()


def test_an_op_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, None)
    with pytest.warns(launch.KernelFallbackWarning, match="no cuTile kernel is written for test_n"):
        assert not stub.run(op="test_none")


def test_a_plan_that_copies_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(values: Any, outputs: Any, arch: str) -> Launch:
        return Launch("kernel", (1, 1, 1), (values["x"].clone(),))

    stub = Stub(monkeypatch, plan)
    words = r"rms_norm .* must neither copy nor allocate"
    with pytest.warns(launch.KernelFallbackWarning, match=words):
        assert not stub.run()
    assert not stub.launches
