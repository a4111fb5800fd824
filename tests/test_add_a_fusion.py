"""The worked example of CONTRIBUTING.md, taken from that page: it appears everywhere."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from cuda.tile.compilation import export_kernel

import tile_backend
from tests.kernel_compile import ARCHITECTURES
from tests.lint import calls, imports, sizes
from tests.lint.source_tree import ROOT, SourceTree
from tile_backend import cli
from tile_backend.lowering.custom_op import define
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.kernels.signature import signature_for
from tile_backend.registry import unregister

PATTERN = "patterns/relu_squared.py"
KERNEL = "lowering/kernels/relu_squared.py"


def example(path: str) -> str:
    """The code block of CONTRIBUTING.md under the line that names this file."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"^`{re.escape(path)}`:\n\n```python\n(.*?)^```$", page, re.M | re.S)
    return str(code)


def load(path: str, folder: Path) -> ModuleType:
    """The example as a module. It lies in a file because cuTile reads the source of kernels."""
    file = folder / Path(path).name
    file.write_text(example(path), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fusion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tile_backend.Fusion]:
    """The example's fusion, registered for the tests of this module."""
    declared = load(PATTERN, tmp_path_factory.mktemp("patterns")).FUSION
    tile_backend.register(declared)
    yield declared
    unregister(declared.name)


class Primer(torch.nn.Module):
    """A feed-forward layer with the activation spelt as people spell it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(8, 32)
        self.down = torch.nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.up(x)) ** 2)


@pytest.mark.usefixtures("fusion")
@pytest.mark.parametrize(
    "activation",
    (
        lambda x: torch.relu(x).square(),
        lambda x: F.relu(x).pow(2),
        lambda x: torch.relu(x) * torch.relu(x),
        lambda x: x.relu() ** 2,
    ),
    ids=("as declared", "functional", "product", "method"),
)
def test_explain_finds_it_however_it_is_spelt(activation: object) -> None:
    report = tile_backend.explain(activation, torch.randn(4, 32))
    assert dict(report.counts) == {"relu_squared": 1}


def test_explain_refuses_what_only_looks_alike(fusion: tile_backend.Fusion) -> None:
    for near_miss in fusion.near_misses:
        assert "relu_squared" not in tile_backend.explain(near_miss, torch.randn(4, 32)).counts


@pytest.mark.usefixtures("fusion")
def test_the_report_names_it_with_its_module_and_line() -> None:
    report = tile_backend.explain(Primer(), torch.randn(4, 8))
    (site,) = (site for site in report.sites if site.fusion == "relu_squared")
    assert site.status == "fused"
    assert re.fullmatch(r"test_add_a_fusion\.py:\d+", site.source)
    assert "relu_squared 1" in report.to_text()


@pytest.mark.usefixtures("fusion")
def test_the_backend_compiles_a_model_with_it_and_trains() -> None:
    torch.manual_seed(0)
    model, x = Primer(), torch.randn(4, 8)
    compiled = torch.compile(model, backend="tilegym")
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    found = torch.autograd.grad(compiled(x).sum(), list(model.parameters()))
    report = tile_backend.last_report()
    assert report is not None
    assert dict(report.counts) == {"relu_squared": 1}
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("fusion")
def test_options_know_its_name() -> None:
    off = {"tilegym.fusions": ["rms_norm"]}
    only = {"tilegym.fusions": ["relu_squared"]}
    for options, count in ((off, {}), (only, {"relu_squared": 1})):
        torch.compiler.reset()
        torch.compile(Primer(), backend="tilegym", options=options)(torch.randn(4, 8))
        report = tile_backend.last_report()
        assert report is not None
        assert dict(report.counts) == count


def test_the_op_passes_opcheck(fusion: tile_backend.Fusion) -> None:
    define((fusion,))
    op = torch.ops.tilegym.relu_squared.default
    for x in (torch.randn(4, 32, requires_grad=True), torch.randn(8, 4).t(), torch.randn(0, 8)):
        torch.library.opcheck(op, (x,))


@pytest.mark.usefixtures("fusion")
def test_the_command_line_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["fusions"])
    assert re.search(r"relu_squared\s.*relu\(x\) \*\* 2", capsys.readouterr().out)


def test_a_fusion_that_is_registered_twice_or_built_in(fusion: tile_backend.Fusion) -> None:
    tile_backend.register(fusion)  # replaces itself
    with pytest.raises(ValueError, match="'rms_norm' is a built-in fusion; give yours another"):
        tile_backend.register(dataclasses.replace(fusion, name="rms_norm"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return load(KERNEL, tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_kernel_compiles(kernel: ModuleType, arch: str) -> None:
    for _name, arguments, outputs in kernel.samples():
        launch = kernel.plan(arguments, outputs, arch)
        signature = signature_for(launch.kernel, launch.args)
        image = io.BytesIO()
        export_kernel(launch.kernel, [signature], image, gpu_code=arch, output_format="cubin")
        assert image.getvalue().startswith(b"\x7fELF")


def test_the_kernel_refuses_what_it_cannot_do(kernel: ModuleType) -> None:
    x = torch.empty(2, 3, dtype=torch.float64, device="meta")
    with pytest.raises(KernelLimit, match="`x` is torch.float64; the kernels take float32"):
        kernel.plan({"x": x}, (torch.empty_like(x),), "sm_90")
    empty = torch.empty(0, 3, device="meta")
    assert kernel.plan({"x": empty}, (torch.empty_like(empty),), "sm_90") is None


def test_the_example_keeps_the_habits() -> None:
    tree = SourceTree({path: example(path) for path in (PATTERN, KERNEL)})
    checks = (sizes.file_lines, sizes.function_lines, imports.direction, calls.prints)
    assert [finding for check in checks for finding in check(tree)] == []
    for path, source in tree.text.items():
        for arguments in (("check",), ("format", "--check")):
            command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", path, "-"]
            result = subprocess.run(
                command, cwd=ROOT, input=source, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, result.stdout
