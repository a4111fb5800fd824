"""`precompile`: a store filled without a GPU, and what a machine with that store can do."""

from __future__ import annotations

import pathlib
import re
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.fake_compiler import WRITE, Tileiras
from tests.inductor_code import first_call
from tests.stub_driver import Driver
from tests.stub_launches import launched
from tests.tuning_entries import configuration
from tile_backend import cli, machine
from tile_backend.lowering import (
    cubin_store,
    launch_abi1,
    launch_recipe,
    site_kernels,
    tuning_store,
)
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.kernels import compiled
from tile_backend.lowering.tuning_entry import Kind
from tile_backend.machine import Gpu

BF16 = torch.bfloat16


def block(q: torch.Tensor, k: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """An attention and two equal gated activations."""
    x = F.scaled_dot_product_attention(q, k, k)
    for _ in range(2):
        x = F.silu(gate) * x
    return x


def example(width: int = 64) -> tuple[Any, ...]:
    """All sizes but the length are the model's own."""
    tensors = tuple(torch.randn(1, 2, 24, width, dtype=BF16) for _ in range(3))
    for tensor in tensors:
        torch._dynamo.mark_static(tensor, [0, 1, 3])
    return block, tensors


def wide() -> tuple[Any, ...]:
    """Heads that the kernel does not take."""
    return example(512)


def broken() -> tuple[Any, ...]:
    """A graph that ends early."""

    def printing(x: torch.Tensor) -> torch.Tensor:
        x = torch.softmax(x, -1)
        torch._dynamo.graph_break()
        return torch.softmax(x * 2, -1)

    return printing, (torch.randn(4, 64),)


@pytest.fixture
def out(tmp_path: pathlib.Path, tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder to fill; the environment is put back afterwards."""
    monkeypatch.setenv(cubin_store.FOLDER, str(tileiras.store))
    torch._dynamo.reset()
    return str(tmp_path / "kernels")


def run(capsys: pytest.CaptureFixture[str], *words: str, target: str = "example") -> Any:
    """Exit code, standard output and standard error."""
    code = cli.main(["precompile", f"tests.test_precompile:{target}", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_every_kernel_of_the_model_is_compiled_once(
    out: str, tileiras: Tileiras, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, err = run(capsys, "--arch", "sm_90", "--arch", "sm_80", "--out", out)
    assert (code, err) == (0, "")
    *rows, last = said.splitlines()
    assert [re.split(r"\s{2,}", row) for row in rows] == [
        [kernel, arch, sites, "compiled, 0 KiB"]
        for kernel, sites in (("attention", "x1"), ("silu_mul", "x2"))
        for arch in ("sm_80", "sm_90")
    ]
    assert last == f"{out}: 4 kernels, 1 KiB; set TILEGYM_KERNEL_STORE={out} where they are to run"
    assert len(list(pathlib.Path(out).iterdir())) == len(tileiras.compiles()) == 4
    code, said, _ = run(capsys, "--arch", "sm_90", "--out", out)
    assert (code, said.count("was there"), said.count("compiled")) == (0, 2, 0)


def test_other_sizes_of_the_inputs(
    out: str, tileiras: Tileiras, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = run(capsys, "--arch", "sm_90", "--out", out, "--dynamic")
    assert code == 0
    kernels = [pathlib.Path(run[0]).stem for run in tileiras.compiles()]
    assert kernels.count("attention") == 3, "16, 64 and 128 queries a tile"


def test_what_a_kernel_does_not_take_is_said(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "--arch", "sm_90", "--out", out, target="wide")
    assert code == 0
    assert "attention  sm_90  x1  runs its reference: " in said
    assert "head is 1 to 256 wide" in said


def test_a_graph_that_ends_early_is_said(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "--arch", "sm_90", "--out", out, target="broken")
    assert code == 0
    assert re.match(r"softmax\w*  sm_90  x1  compiled", said)
    assert re.search(r"\nincomplete  .*; what comes after it is not compiled\n$", said)


def test_without_a_compiler(
    out: str, tileiras: Tileiras, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "--arch", "sm_90", "--out", out)
    tileiras.remove()
    code, said, _ = run(capsys, "--arch", "sm_90", "--out", out)
    assert (code, said.count("was there")) == (0, 2), "there is nothing left to compile"
    code, _, err = run(capsys, "--arch", "sm_120", "--out", out)
    assert code == 1
    assert err.startswith("tile-backend: precompile needs tileiras, which is not installed: ")
    assert err.endswith("Install it: pip install 'tile-backend[kernels]'.\n")


def test_without_cuda_tile(
    out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_of(*_: Any, **__: Any) -> Any:
        raise ImportError("No module named 'cuda.tile'")

    monkeypatch.setattr(site_kernels, "needs_of", needs_of)
    code, _, err = run(capsys, "--arch", "sm_90", "--out", out)
    assert code == 1
    assert "precompile needs cuda-tile, which is not installed: No module named" in err


def test_a_compiler_that_fails(
    out: str, tileiras: Tileiras, capsys: pytest.CaptureFixture[str]
) -> None:
    tileiras.compiles_with(f"case $1 in *attention*) exit 5 ;; esac; {WRITE}")
    code, _, err = run(capsys, "--arch", "sm_90", "--out", out)
    assert code == 1
    assert "1 kernel(s) are not in the store:\n  attention sm_90: tileiras 13.4.92 ended wi" in err
    assert [path.name.split("-")[0] for path in pathlib.Path(out).iterdir()] == ["silu_mul"]


def test_a_folder_that_cannot_be_written(
    tmp_path: pathlib.Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(cubin_store.StoreWarning, match="cannot be kept in"):
        code, _, err = run(capsys, "--arch", "sm_90", "--out", str(tmp_path / "file"))
    assert code == 1
    assert "2 kernel(s) are not in the store" in err
    assert "cannot be written" in err


@pytest.mark.parametrize("arch", ("hopper", "sm_75", "sm_90a", "90"))
def test_an_architecture_that_is_none(
    out: str, capsys: pytest.CaptureFixture[str], arch: str
) -> None:
    code, _, err = run(capsys, "--arch", arch, "--out", out)
    assert code == 1
    assert f"which GPU to compile for? Found {arch!r}. Name it with --arch" in err


def test_the_gpus_of_this_machine_unless_told(
    out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu("H200", (9, 0)), Gpu("H200", (9, 0))])
    code, said, _ = run(capsys, "--out", out)
    assert (code, said.count("sm_90")) == (0, 2)
    monkeypatch.setattr(machine, "gpus", list)
    code, _, err = run(capsys, "--out", out)
    assert code == 1
    assert "Found nothing, and this machine has no GPU. Name it with --arch" in err


@pytest.mark.stub
def test_a_machine_with_the_store_needs_no_compiler(
    driver: Driver,
    out: str,
    tileiras: Tileiras,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(capsys, "--arch", "sm_90", "--out", out)
    tileiras.remove()
    monkeypatch.setenv(cubin_store.FOLDER, out)
    compiled.kernel.cache_clear()
    launch_recipe.recipe.cache_clear()
    _, (q, k, gate) = example()
    result = torch.empty_like(q)

    def layer() -> None:
        numbers = (0.125, False, 0, None, None, None, None, "sdpa")
        launch_abi1.attention(q, k, k, *[None] * 5, *numbers, out=result)
        launch_abi1.silu_mul(gate, q, 1.0, "activation", out=result)

    _, launches = launched(driver, layer)
    assert [found.kernel.partition("_K")[0] for found in launches] == ["attention", "silu_mul"]


def last_norm() -> tuple[Any, ...]:
    """A residual add and a norm, as at the end of a model: nobody reads the sum."""

    def function(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x + y, (64,), weight, 1e-6)

    x = torch.randn(4, 64, dtype=BF16)
    return function, (x, x.clone(), torch.ones(64, dtype=BF16))


@pytest.mark.stub
@pytest.mark.slow
def test_generated_code_finds_its_kernels_also_where_nobody_reads_a_result(
    driver: Driver,
    out: str,
    tileiras: Tileiras,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(capsys, "--arch", "sm_90", "--out", out, target="last_norm")
    tileiras.remove()
    monkeypatch.setenv(cubin_store.FOLDER, out)
    function, args = last_norm()
    options = {"tilegym.kernels": "always"}
    compiled_function = torch.compile(function, backend="tilegym", options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        _, launches = launched(driver, lambda: first_call(compiled_function, *args))
    assert [found.kernel.partition("_K")[0] for found in launches] == ["add_rms_norm"]


def test_a_measured_configuration_is_compiled_beside_the_planned_one(
    out: str, tuning: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = Kind("silu_mul gate=bf16[64] up=bf16[64] rounding=activation", {"rows": 48})
    tuning_store.record("sm_90", [configuration(kind, "elements=2048,warps=8")])
    code, said, _ = run(capsys, "--arch", "sm_90", "--out", out)
    assert code == 0
    kernels = [row.split()[0] for row in said.splitlines()[:-1]]
    assert kernels == ["attention", "silu_mul", "silu_mul"]
    assert tuning.is_dir()
