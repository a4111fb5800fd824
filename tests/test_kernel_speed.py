"""The bench of kernels: its cases have kernels, its arithmetic is right; on a GPU, its timer."""

from __future__ import annotations

import pytest
import torch

from bench import gpu_timer, kernel_speed
from tests.gpu_kit.needed import code_of


@pytest.mark.parametrize("case", kernel_speed.cases(), ids=lambda case: case.title)
def test_every_case_has_a_kernel(case: kernel_speed.Case) -> None:
    values = case.arguments("meta")
    code = code_of(case.op, values, "sm_90")
    assert code is not None
    for name in case.heads:
        assert not values[name].is_contiguous() or 1 in values[name].shape[1:3]
        assert tuple(values[name].shape) == case.tensors[name]


def test_a_row_has_ratios_and_the_share_of_the_ceiling() -> None:
    norm = kernel_speed.cases()[0]
    values = norm.arguments("meta")
    assert kernel_speed.moved(norm, values) == 2 * (2 * 8192 * 4096 + 4096)
    ceiling = {"bytes_per_us": 4e6, "flop_per_us": 8e8}
    times = {"kernel": [40.0, 50.0, 60.0], "inductor": [75.0] * 3, "again": [50.0] * 3}
    row = kernel_speed.row(norm, values, ceiling, times)
    assert row["kernel_us"]["median"] == 50
    assert row["over_kernel"] == {"kernel": 1, "inductor": 1.5, "again": 1}
    assert row["share_of_ceiling"] == pytest.approx(
        2 * (2 * 8192 * 4096 + 4096) / 50 / 4e6, abs=1e-4
    )
    line = kernel_speed.report([row]).splitlines()[1].split()
    assert line == ["norm", "8192x4096", "50.0", "1.50", "1.00", "67%"]


def test_attention_is_bound_by_its_products() -> None:
    *_, attention = kernel_speed.cases()
    assert attention.flop == 4 * 32 * 8192 * 8192 * 128 // 2
    ceiling = {"bytes_per_us": 4e6, "flop_per_us": attention.flop / 500}
    row = kernel_speed.row(
        attention, attention.arguments("meta"), ceiling, {"kernel": [1000.0] * 2}
    )
    assert row["share_of_ceiling"] == 0.5


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kernel_speed"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device, and torch sees none"):
        kernel_speed.main()


@pytest.mark.gpu
def test_the_timer_tells_more_work_from_less() -> None:
    small, large = (torch.randn(n, device="cuda") for n in (2**10, 2**28))
    versions = {"small": lambda: small.mul_(1.0), "large": lambda: large.mul_(1.0)}
    found = gpu_timer.time_rounds(versions, samples=5)
    assert {name: len(times) for name, times in found.items()} == {"small": 5, "large": 5}
    assert min(found["large"]) > 10 * max(found["small"])
