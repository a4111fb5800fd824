"""Where no Python is generated the op stays a call through the dispatcher."""

from __future__ import annotations

import torch

from tests.inductor_code import code_of

ops = torch.ops.tilegym


def test_cpp_wrapper_calls_the_op_by_name() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ops.add_rms_norm(x * 2, x, None, 1e-6)

    x = torch.randn(4, 64)
    with torch.no_grad(), torch._inductor.config.patch(cpp_wrapper=True):
        code = code_of(function, x)
    assert 'findSchemaOrThrow("tilegym::add_rms_norm", "")' in code
    assert "_tg" not in code
