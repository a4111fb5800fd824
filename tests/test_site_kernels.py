"""Kernels are compiled during torch.compile, and what cannot be compiled is known then."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.exc import BackendCompilerFailed

import tile_backend
from tests.fake_compiler import WRITE, Tileiras
from tests.inductor_code import first_call
from tests.stub_driver import Driver
from tests.stub_launches import launched
from tile_backend import inductor
from tile_backend.errors import FallbackRefused
from tile_backend.lowering import choice, gate, inductor_ir, launch, static_rule
from tile_backend.lowering.kernels import compiled
from tile_backend.lowering.reason import ReasonKind

BF16 = torch.bfloat16


class Layer(torch.nn.Module):
    """An attention, and two sites that are the same but for their place."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        x = F.scaled_dot_product_attention(q, k, k, is_causal=True)
        for _ in range(2):
            x = F.silu(x) * gate
        return x


def inputs(length: int = 24) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(1, 2, length, 64, dtype=BF16) for _ in range(3))


@pytest.fixture(autouse=True)
def as_on_a_gpu(tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CPU tensors are taken for tensors of an sm_90; graphs are compiled, code is not generated."""
    monkeypatch.setattr(gate, "device_of", lambda call: torch.device("cuda", 0))
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def compile_(*args: torch.Tensor, dynamic: bool = False, **options: Any) -> Any:
    """Compile Layer up to code generation and run it once."""
    options = {"tilegym.kernels": "always", **{f"tilegym.{n}": v for n, v in options.items()}}
    function = torch.compile(Layer(), backend="tilegym", options=options, dynamic=dynamic)
    with inductor.without_codegen():
        return function(*args)


def decisions() -> list[tuple[str, str, str]]:
    report = tile_backend.last_report()
    assert report is not None
    return [
        (site.fusion, str(site.decision), site.fallback.text if site.fallback else "")
        for site in report.fused
    ]


def test_every_kernel_is_compiled_once_before_anything_runs(tileiras: Tileiras) -> None:
    result = compile_(*inputs(), strict="no-fallback")
    assert result.shape == (1, 2, 24, 64)
    names = sorted(run[0].rpartition("/")[2] for run in tileiras.compiles())
    assert names == ["attention.bytecode", "silu_mul.bytecode"], "two sites share one kernel"
    assert decisions() == [("attention", "kernel", ""), *[("silu_mul", "kernel", "")] * 2]
    torch._dynamo.reset()
    compiled.kernel.cache_clear()
    compile_(*inputs(), strict="no-fallback")
    assert len(tileiras.compiles()) == 2, "the second process finds them in the store"


def test_explain_compiles_nothing(tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    report = tile_backend.explain(Layer(), *inputs())
    assert [str(site.decision) for site in report.fused if site.fusion == "attention"] == ["kernel"]
    assert tileiras.compiles() == []
    tileiras.remove()
    report = tile_backend.explain(Layer(), *inputs())
    (attention,) = (site for site in report.fused if site.fusion == "attention")
    assert attention.decision == "reference"
    assert attention.fallback is not None
    assert attention.fallback.kind is ReasonKind.MISSING_DEPENDENCY


def test_a_store_is_enough(tileiras: Tileiras) -> None:
    compile_(*inputs())
    tileiras.remove()
    torch._dynamo.reset()
    compiled.kernel.cache_clear()
    compile_(*inputs(), strict="no-fallback")
    assert {decision for _, decision, _ in decisions()} == {"kernel"}


@pytest.mark.parametrize(
    ("body", "words"),
    (
        (None, "is not in the kernel store .*tileiras, is not installed.*precompile TARGET"),
        ("exit 5", "ended with status 5 compiling (attention|silu_mul) for sm_90"),
        ("kill -ABRT $$", r"ended with signal 6 \(SIGABRT\)"),
        ("sleep 600", "tileiras was stopped after 0.5 s"),
    ),
)
def test_no_fallback_sees_what_cannot_be_compiled(
    tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch, body: str | None, words: str
) -> None:
    monkeypatch.setenv("CUDA_TILE_COMPILER_TIMEOUT_SEC", "0.5")
    if body is None:
        tileiras.remove()
    else:
        tileiras.compiles_with(body)
    with pytest.raises(BackendCompilerFailed, match=words) as error:
        compile_(*inputs(), strict="no-fallback")
    assert isinstance(error.value.inner_exception, FallbackRefused)


def test_without_a_compiler_the_model_runs_and_the_report_says_why(
    tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_rule, "CLEAR", 10.0)  # kernels are wanted everywhere
    choice.estimates.clear()
    tileiras.remove()
    args = inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compile_(*args, kernels="auto")
    torch.testing.assert_close(result, Layer()(*args))
    report = tile_backend.last_report()
    assert report is not None
    (attention,) = (site for site in report.fused if site.fusion == "attention")
    assert attention.decision == "reference"
    assert not attention.decision.op_in_graph, "the original ops are left to Inductor"
    assert "pip install 'tile-backend[kernels]'" in report.to_text()


def test_without_cuda_tile(tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "has_cutile", lambda: False)
    with pytest.raises(BackendCompilerFailed, match="the package cuda-tile is not installed"):
        compile_(*inputs(), strict="no-fallback")
    assert tileiras.compiles() == []


def test_a_refused_shape(tileiras: Tileiras) -> None:
    wide = tuple(torch.randn(1, 2, 8, 512, dtype=BF16) for _ in range(3))
    with pytest.raises(BackendCompilerFailed, match="head is 1 to 256 wide"):
        compile_(*wide, strict="no-fallback")


def test_dynamic_sizes_compile_the_kernels_that_other_sizes_need(tileiras: Tileiras) -> None:
    args = inputs()
    for tensor in args:
        torch._dynamo.mark_dynamic(tensor, 2)
    compile_(*args, strict="no-fallback")
    names = [run[0].rpartition("/")[2] for run in tileiras.compiles()]
    assert names.count("silu_mul.bytecode") == 1, "rows of any number share one"
    assert names.count("attention.bytecode") == 3, "16, 64 and 128 queries a tile"
    compiles = len(names)
    for length in (2, 17, 100, 1000):
        torch._dynamo.reset()
        compile_(*inputs(length), strict="no-fallback")
    assert len(tileiras.compiles()) == compiles


def test_no_fallback_sees_sizes_that_the_graph_allows_and_the_kernel_does_not(
    tileiras: Tileiras,
) -> None:
    """A grid has at most 65535 heads, and the batch of this graph may have more."""

    def batched(most: int) -> tuple[torch.Tensor, ...]:
        args = inputs()
        for tensor in args:
            torch._dynamo.mark_dynamic(tensor.expand(2, -1, -1, -1), 0)
        args = tuple(tensor.expand(2, -1, -1, -1).contiguous() for tensor in args)
        for tensor in args:
            torch._dynamo.mark_dynamic(tensor, 0, min=2, max=most)
        return args

    compile_(*batched(4000), strict="no-fallback")
    torch._dynamo.reset()
    with pytest.raises(BackendCompilerFailed) as error:
        compile_(*batched(70000), strict="no-fallback")
    assert "70000 the reference runs: 70000 blocks on grid axis z" in str(error.value)
    torch._dynamo.reset()
    compile_(*batched(70000))
    attention, *gates = decisions()
    assert attention[:2] == ("attention", "kernel")
    assert "= 70000 the reference runs" in attention[2]
    assert gates == [("silu_mul", "kernel", "")] * 2


def generated(driver: Driver, *args: torch.Tensor, **options: str) -> list[str]:
    """Compile Layer with its code and run it: what was launched."""
    options = {"tilegym.kernels": "always", **{f"tilegym.{n}": v for n, v in options.items()}}
    function = torch.compile(Layer(), backend="tilegym", options=options)
    _, launches = launched(driver, lambda: first_call(function, *args))
    return [found.kernel.partition("_K")[0] for found in launches]


@pytest.fixture
def layouts_of_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for an input whose layout is Inductor's to fix: it differs from the captured graph's."""
    realised = inductor_ir.ir.ExternKernel.realize_input
    monkeypatch.setattr(inductor_ir, "_laid_out", lambda value, fake: realised(value))


@pytest.mark.stub
@pytest.mark.slow
def test_the_first_launch_compiles_nothing(driver: Driver, tileiras: Tileiras) -> None:
    """From torch.compile to the driver, with the kernels that the captured graph asked for."""
    assert generated(driver, *inputs()) == ["attention", "silu_mul", "silu_mul"]
    assert len(tileiras.compiles()) == 2


@pytest.mark.stub
@pytest.mark.slow
@pytest.mark.usefixtures("layouts_of_inductor")
def test_nor_does_it_with_layouts_that_the_graph_did_not_have(
    driver: Driver, tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_launches: list[int] = []
    original = compiled.Kernel._compile

    def spied(kernel: Any, *given: Any) -> Any:
        before_launches.append(len(tileiras.compiles()))
        return original(kernel, *given)

    monkeypatch.setattr(compiled.Kernel, "_compile", spied)
    assert generated(driver, *inputs()) == ["attention", "silu_mul", "silu_mul"]
    assert before_launches == [3, 3, 3]
    assert len(tileiras.compiles()) == 3, "of silu_mul two: one reads attention's own layout"


SECOND_OF_SILU = "case $1 in *silu_mul*) if [ -e {mark} ]; then exit 7; fi; touch {mark} ;; esac\n"


@pytest.mark.stub
@pytest.mark.slow
@pytest.mark.usefixtures("layouts_of_inductor")
def test_what_only_the_generated_code_needs_is_seen_as_well(
    driver: Driver, tileiras: Tileiras, tmp_path: pathlib.Path
) -> None:
    tileiras.compiles_with(SECOND_OF_SILU.format(mark=tmp_path / "mark") + WRITE)
    words = r"1 site\(s\).*\n  tilegym.silu_mul .*test_site_kernels.py:\d+: .*status 7"
    with pytest.raises(BackendCompilerFailed, match=words):
        generated(driver, *inputs(), strict="no-fallback")
    torch._dynamo.reset()
    with pytest.warns(launch.KernelFallbackWarning, match="status 7 compiling silu_mul"):
        assert generated(driver, *inputs()) == ["attention", "silu_mul"]
