"""A walk-through where something is not installed, or fails: it says what, and goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_light_import import BLOCKED, python
from tile_backend import inductor_stages, tour_examples, tour_run
from tile_backend.inductor_stages import Compiled
from tile_backend.lowering import cubin_usage
from tile_backend.lowering.kernels import inspection, tileiras
from tile_backend.lowering.kernels.build_error import MissingError
from tile_backend.lowering.site import OpCall, TensorSpec
from tile_backend.tour import Walkthrough, walkthrough


def tour() -> Walkthrough:
    example = tour_examples.example("softmax")
    with torch.no_grad():
        return walkthrough(example.module.cpu(), *(tensor.cpu() for tensor in example.inputs))


def test_without_cuda_tile() -> None:
    """Everything but the kernel is shown; the rest of the tour says how to have it."""
    code = f"""{BLOCKED}
import torch
from tile_backend import tour_examples, walkthrough
from tile_backend.lowering import gate
gate.has_cutile = lambda: False
example = tour_examples.example("softmax")
with torch.no_grad():
    print(walkthrough(example.module.cpu(), *(tensor.cpu() for tensor in example.inputs)))
"""
    text = python(code)
    assert "_tg.softmax(" in text
    assert "11. The kernel\n" in text
    assert "12. Running it\n" in text
    needed = "The package cuda-tile is not installed: there is no kernel to show."
    assert text.count(needed) == 2
    assert "pip install 'tile-backend[kernels]'" in " ".join(text.split())
    assert "on an sm_90 GPU        left to Inductor" in text


@pytest.fixture
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tileiras, "found", lambda: MissingError("tileiras is not installed"))


@pytest.mark.usefixtures("nothing_found")
def test_without_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_KERNEL_STORE", str(tmp_path))
    found = tour()
    assert found.stage("kernel").missing == ""
    for name in ("tile-ir", "resources"):
        assert found.stage(name).missing.startswith("Not to be had here: ")
        assert "tileiras is not installed" in found.stage(name).missing
        assert "pip install 'tile-backend[kernels]'" in found.stage(name).missing
    assert "output 0 ok" in found.stage("run").artefacts[0].text


def test_without_the_disassembler_and_cuobjdump(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise FileNotFoundError(f"{name} is not installed: pip install nvidia-cuda-{name}")

    monkeypatch.setattr(inspection, "DISASSEMBLER", "no-such-program")
    monkeypatch.setattr(cubin_usage, "tool", missing)
    found = tour()
    assert "no-such-program is not there" in found.stage("tile-ir").missing
    assert "pip install nvidia-cuda-cuobjdump" in found.stage("resources").missing


def test_a_disassembler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 3, "", "")
    monkeypatch.setattr(inspection.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(inspection.InspectionError, match="tileirdisasm ended with status 3"):
        inspection.tile_ir(*softmax_kernel())


def softmax_kernel() -> tuple[Any, Any, str]:
    from tile_backend.lowering.kernels import softmax
    from tile_backend.lowering.kernels.signature import signature_for

    _, arguments, outputs = softmax.samples()[0]
    launch = softmax.plan(arguments, outputs, "sm_90")
    return launch.kernel, signature_for(launch.kernel, launch.args), "sm_90"


def test_resources_of_a_gpu_that_is_not_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, signature, arch = softmax_kernel()
    known = inspection.resources(kernel, signature, arch)
    assert known.blocks is not None
    assert known.warps * 32 == known.usage.threads
    monkeypatch.setattr(inspection.multiprocessor, "LIMITS", {})
    unknown = inspection.resources(kernel, signature, arch)
    assert (unknown.usage, unknown.blocks) == (known.usage, None)


# --- Inductor -------------------------------------------------------------------------------------


def test_without_a_c_plus_plus_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor fails before there is code; its graphs are there."""

    def refuse(graph: Any) -> Any:
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(inductor_stages.GraphLowering, "codegen", refuse)
    found = tour()
    assert "torch.ops.tilegym.softmax" in found.stage("aten").artefacts[0].text
    missing = found.stage("code").missing
    assert missing.startswith("Inductor wrote no code (forward: ")
    assert "no C++ compiler" in missing
    assert "Install one (g++, python3-dev)" in missing
    assert found.stages[-1].name == "run"


def test_what_torch_itself_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("AOTAutograd cannot\nsay why")

    monkeypatch.setattr(inductor_stages.compile_fx, "compile_fx", refuse)
    found = tour()
    missing = found.stage("aten").missing
    assert missing == "torch stopped here: NotImplementedError: AOTAutograd cannot"
    assert found.stages[-1].name == "run"


def test_a_compile_that_is_watched_leaves_the_caches_alone() -> None:
    config = (inductor_stages.inductor_config, inductor_stages.functorch_config)
    before = [module.save_config_portable() for module in config]
    tour()
    assert [module.save_config_portable() for module in config] == before
    assert inductor_stages.GraphLowering.compile_to_module.__name__ == "compile_to_module"


def test_an_error_is_known_by_what_caused_it() -> None:
    inner = ValueError("inner")
    outer = RuntimeError("outer")
    outer.__cause__ = inner
    assert inductor_stages.caused_by(outer, ValueError)
    assert not inductor_stages.caused_by(outer, KeyError)
    assert Compiled("forward", "").failure == ""


# --- running --------------------------------------------------------------------------------------


def spec(*shape: int) -> TensorSpec:
    stride = tuple(torch.empty(shape, device="meta").stride())
    return TensorSpec("bfloat16", shape, stride, "cpu", shape, stride)


def test_what_is_too_large_to_interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    call = OpCall("softmax", {"x": spec(1 << 11, 1 << 10), "dtype": None}, {}, ())
    stage = tour_run.run(call)
    assert "over 1048576 elements" in stage.missing
    assert [artefact.text for artefact in stage.artefacts] == ["not measured: no GPU"]


def test_a_result_outside_its_budget_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    call = OpCall("softmax", {"x": spec(4, 8), "dtype": "float32"}, {}, ())
    assert "output 0 ok" in tour_run.run(call).artefacts[0].text
    monkeypatch.setattr(tour_run.Case, "op_call", lambda self: lambda x, **_: x.float() + 1)
    stage = tour_run.run(call)
    assert stage.missing.startswith("It did not run, or not right: ")
    assert "torch.ops.tilegym.softmax is outside its budget: output 0 OVER BUDGET" in stage.missing
