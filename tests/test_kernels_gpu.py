"""Every kernel on a GPU, within the budget; test_kernels_interpreted has the same on a CPU."""

from __future__ import annotations

import pytest

from tests.gpu_kit import calls, launches
from tests.kernel_cases import OPS
from tests.kernel_check import verdict_on
from tile_backend.lowering.custom_op import record

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("op", OPS)
def test_kernels_are_within_budget(op: str) -> None:
    wrong = {}
    for call in calls.parity_calls():
        if call.op == op:
            (verdict,) = verdict_on(record(op), *launches.on_gpu(call))
            if not verdict:
                wrong[str(call)] = str(verdict)
    assert not wrong
