"""The code Inductor writes for our ops when it launches directly, on CPU buffers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.inductor_code import allocations, body, code_of, compiled, first_call, launches
from tile_backend.lowering import custom_op, inductor_ir, provenance
from tile_backend.patterns import all_fusions

ops = torch.ops.tilegym
WEIGHT = torch.ones(64)
pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def inference() -> Any:
    with torch.no_grad():
        yield


class Layer(torch.nn.Module):
    """Prologues, two outputs, an epilogue, and an absent weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64))
        self.matrix = torch.nn.Parameter(torch.randn(64, 64) / 8)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normed, residual = ops.add_rms_norm(x.relu(), residual * 2, self.weight, 1e-6)
        hidden = F.silu(normed) * 3 @ self.matrix
        return ops.rms_norm(hidden, None, 1e-6).sin(), residual


class Model(torch.nn.Module):
    """Gives the layer a path."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer()])

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.layers[0](x, residual)


@pytest.fixture(scope="module")
def code() -> str:
    with torch.no_grad():
        return code_of(Model(), torch.randn(32, 64), torch.randn(32, 64))


def test_launches_read_and_write_planned_buffers(code: str) -> None:
    assert "import tile_backend.lowering.launch_abi1 as _tg" in code
    assert "torch.ops.tilegym" not in code
    first, second = launches(code)
    assert first == "buf2 = _tg.add_rms_norm(buf0, buf1, arg2_1, 1e-06, 0.0, 'once', buf3, buf4)"
    assert second == "_tg.rms_norm(buf6, None, 1e-06, 0.0, 'once', out=buf7)"
    lines = body(code)
    epilogue = lines[lines.index(first) + 1 :]
    assert epilogue[0] == "buf5 = buf3; del buf3  # reuse"
    assert epilogue[1].startswith("cpp_fused_mul_silu")
    assert epilogue[1].endswith("(buf5)")
    assert lines[lines.index(second) + 1] == "buf8 = buf7; del buf7  # reuse"


def test_the_line_above_a_launch_names_op_module_and_source(code: str) -> None:
    lines = body(code)
    for launch, op in zip(launches(code), ("add_rms_norm", "rms_norm"), strict=True):
        comment = lines[lines.index(launch) - 1].split("  ")
        assert comment[:2] == [f"# tilegym.{op}", "layers.0"]
        assert comment[2].startswith("test_inductor_ir_code.py:")


def attention(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """q and k are transposed views, as projections give them."""
    q, k = (t.view(2, -1, 4, 64).transpose(1, 2) for t in (x, y * 2))
    q, k = ops.rotary_qk(q, k, WEIGHT.view(1, 1, 1, 64), WEIGHT.view(1, 1, 1, 64))
    return ops.attention(q, k, y.view(2, -1, 4, 64).transpose(1, 2), *[None] * 5, 0.3)


def test_transposed_views_are_passed_as_views() -> None:
    code = code_of(attention, torch.randn(32, 64), torch.randn(32, 64))
    rotary, attend = launches(code)
    view = r"reinterpret_tensor\({}, \(2, 4, 4, 64\), \(1024, 64, 256, 1\), 0\)"
    argument, made = view.format(r"arg\d_1"), view.format("buf0")
    assert re.search(rf"_tg\.rotary_qk\({argument}, {made}, .*'every_op', buf2, buf3\)", rotary)
    assert re.search(rf"_tg\.attention\(buf2, buf3, {argument}, (None, ){{5}}0.3, False", attend)
    assert allocations(code) == 3  # y * 2 and both rotated: no copy; the result reuses one


def test_a_dead_output_is_none() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ops.add_rms_norm(x, y, WEIGHT, 1e-6)[0]

    x, y = torch.randn(32, 64), torch.randn(32, 64)
    actual, (code,) = compiled(function, x, y)
    torch.testing.assert_close(actual, function(x, y))
    (launch,) = launches(code)
    assert launch.endswith("'once', buf1, None)")
    assert allocations(code) == 1


def test_constants_and_absent_operands_between_tensors() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool).tril()

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q = x.view(1, 1, 4, 64)
        return (
            ops.layer_norm(x, None, WEIGHT, 1e-5, "every_op"),
            ops.softmax(x, torch.float64),
            ops.attention(q, q, q, mask, *[None] * 4, 0.5, fill=float("-inf")),
        )

    x = torch.randn(4, 64)
    actual, (code,) = compiled(function, x)
    torch.testing.assert_close(actual, function(x))
    norm, softmax, attend = launches(code)
    assert norm.startswith("_tg.layer_norm(arg0_1, None, arg1_1, 1e-05, 'every_op', out=")
    assert softmax.startswith("_tg.softmax(arg0_1, torch.float64, out=")
    assert ", None, None, None, None, 0.5, False, 0, None, None, None, -inf, 'sdpa', out=" in attend
    assert any(line.endswith("  fill=-inf") for line in body(code))


def test_dynamic_rows_compile_once_and_must_agree() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normed, total = ops.add_rms_norm(x, y, WEIGHT, 1e-6)
        return ops.rms_norm(normed, WEIGHT, 1e-6), total

    torch._dynamo.reset()
    first, second = ((torch.randn(n, 64), torch.randn(n, 64)) for n in (32, 7))
    for tensor in first:
        torch._dynamo.mark_dynamic(tensor, 0)
    once = torch.compile(function, fullgraph=True)
    actual, (code,) = first_call(once, *first)
    torch.testing.assert_close(actual, function(*first))
    rows = re.findall(r"empty_strided_cpu\(\((\w+), 64\), \(64, 1\)", code)
    assert len(rows) == 3
    assert len(set(rows)) == 1  # the two sizes must be equal, so they are one symbol
    assert rows[0].startswith("s")
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(once(*second), function(*second))
        with pytest.raises(RuntimeError, match="recompile"):
            once(first[0], second[1])


def test_sizes_that_differ_are_refused_while_compiling() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> Any:
        return ops.silu_mul(x, y)

    x, y = torch.randn(8, 64), torch.randn(9, 64)
    torch._dynamo.mark_dynamic(x, 0)
    torch._dynamo.mark_dynamic(y, 0)
    with pytest.raises(RuntimeError, match=r"silu_mul.*size|size.*must match"):
        compiled(function, x, y)


def test_on_a_cpu_the_op_stays_a_call() -> None:
    x = torch.randn(4, 64)
    actual, (code,) = compiled(lambda x: ops.rms_norm(x, WEIGHT, 1e-6), x, direct=False)
    torch.testing.assert_close(actual, ops.rms_norm(x, WEIGHT, 1e-6))
    assert "torch.ops.tilegym.rms_norm.default(" in code
    assert "_tg" not in code


def test_installing_again_changes_nothing() -> None:
    from torch._inductor.lowering import lowerings

    overload = custom_op.record("rms_norm").overload
    before = lowerings[overload]
    inductor_ir.install(all_fusions())
    assert lowerings[overload] is before


@pytest.mark.parametrize(
    ("stack", "path"),
    (
        ({}, ""),
        ({"a": ("L['self'].model.layers[0].mlp", None)}, "model.layers.0.mlp"),
        ({"a": ("L['self']._modules['model']._modules['norm']", None)}, "model.norm"),
        ({"a": ("L['self'].__dict__['_modules']['base'].mlp", None)}, "base.mlp"),
        ({"a": ("L['self']", None)}, ""),
    ),
)
def test_module_path(stack: dict[str, Any], path: str) -> None:
    assert provenance.module_path({"nn_module_stack": stack}) == path


def test_source_line_is_the_innermost_frame() -> None:
    trace = (
        '  File "/a/run.py", line 3, in f\n    g()\n  File "/b/model.py", line 68, in g\n    x\n'
    )
    assert provenance.source_line({"stack_trace": trace}) == "model.py:68"
    assert provenance.source_line({}) == ""
