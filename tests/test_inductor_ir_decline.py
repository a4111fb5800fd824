"""Where no Python is generated the op stays a call through the dispatcher."""

from __future__ import annotations

import torch

from tests.inductor_code import code_of

ops = torch.ops.tilegym
BY_NAME = (
    'findSchemaOrThrow("tilegym::add_rms_norm", "")',
    'PyUnicode_FromString("torch.ops.tilegym.add_rms_norm.default")',  # torch 2.11: through Python
)
"""How the C++ that Inductor generates asks for an op outside ATen."""


def test_cpp_wrapper_calls_the_op_by_name() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ops.add_rms_norm(x * 2, x, None, 1e-6)

    x = torch.randn(4, 64)
    with torch.no_grad(), torch._inductor.config.patch(cpp_wrapper=True):
        code = code_of(function, x)
    assert any(call in code for call in BY_NAME)
    assert "_tg" not in code
