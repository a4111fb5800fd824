"""`make gpu-kit`, and an unpacked kit on a machine that has torch and no compiler of kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bench import result_file
from tests.fake_compiler import Tileiras
from tests.gpu_kit import calls, compiler, install, needed, pack, peers
from tests.gpu_kit.pack import PackError
from tile_backend.lowering import cubin_store
from tile_backend.lowering.kernel_code import Code

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LAUNCHES = """
import sys
from tests import stub_driver
from tests.gpu_kit import calls, launches
from tile_backend.lowering.kernels import tileiras
import tile_backend

assert "site-packages/tile_backend" in tile_backend.__file__, tile_backend.__file__
driver = stub_driver.install()
with stub_driver.gpu(driver):
    for call in calls.sanitized_calls():
        if call.op == "rms_norm":
            launches.results(call.op, call.make())
print(driver.launched)
"""


def norms() -> set[Code]:
    """The kernels of some calls."""
    found = (c for c in calls.sanitized_calls() if c.op == "rms_norm")
    codes = {needed.code_of(call.op, call.make(), "sm_90") for call in found}
    return {code for code in codes if code is not None}


@pytest.fixture
def packed(
    tmp_path: Path, tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Folder and archive of a kit with some kernels; cuda-tile is the one of this environment."""
    monkeypatch.setattr(pack, "cuda_tile_wheel", lambda target, python: None)
    monkeypatch.setattr(peers, "pack", lambda target: {"tilegym": "not packed: no network"})
    folder = tmp_path / "gpu-kit"
    return folder, pack.pack(folder, "sm_90", PYTHON, norms(), compiling=False)


@pytest.mark.slow
def test_a_kit_is_one_archive_that_runs_without_a_network(packed: tuple[Path, Path]) -> None:
    folder, archive = packed
    facts = json.loads((folder / pack.MANIFEST).read_text())
    assert (facts["arch"], facts["python"], facts["kernels"]) == ("sm_90", PYTHON, len(norms()))
    assert facts["commit"] == result_file.commit()
    elsewhere = folder.parent / "elsewhere"
    with tarfile.open(archive) as tar:
        tar.extractall(elsewhere, filter="data")
    kit = elsewhere / folder.name
    install.install(kit, kit / ".venv")
    found = subprocess.run(
        [kit / ".venv" / "bin" / "python", "-c", LAUNCHES],
        cwd=kit,
        env={**os.environ, cubin_store.FOLDER: str(kit / "kernels"), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout, found.returncode) == ("4\n", 0), found.stderr
    assert len(list((kit / "kernels").iterdir())) == facts["kernels"], "one was compiled"


def test_peers_travel_where_they_can_be_had(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> str:
        *_, target, name = command
        if name.startswith("liger"):
            return "ERROR: no network"
        Path(target, "tilegym.whl").write_bytes(b"x" * 2**20)
        return ""

    assert peers.pack(tmp_path, run) == {
        "tilegym==1.5.1": "1.0 MiB",
        "liger-kernel==0.8.5": "not packed: ERROR: no network",
    }


def test_another_python_is_told_what_to_do(packed: tuple[Path, Path]) -> None:
    folder, _ = packed
    manifest = folder / pack.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "python": "3.99"}))
    words = f'for Python 3.99 and this is {PYTHON}: .* make gpu-kit ARGS="--python {PYTHON}"'
    with pytest.raises(install.InstallError, match=words):
        install.install(folder, folder / ".venv")
    assert not (folder / ".venv").exists()


def test_a_folder_that_is_no_kit_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(PackError, match="exists and is no kit: name another folder with --out"):
        pack.pack(tmp_path, "sm_90", PYTHON, (), compiling=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_cannot_be_compiled_is_listed_and_the_old_kit_stays(
    packed: tuple[Path, Path], tileiras: Tileiras
) -> None:
    folder, _ = packed
    before = (folder / pack.MANIFEST).read_text()
    tileiras.compiles_with("exit 7")
    call = next(call for call in calls.parity_calls() if call.op == "softmax")
    code = needed.code_of(call.op, call.make(), "sm_90")
    assert code is not None
    with pytest.raises(PackError, match=r"1 kernels cannot be compiled:\n  softmax_short: .* 7"):
        pack.pack(folder, "sm_90", PYTHON, {code}, compiling=False)
    assert (folder / pack.MANIFEST).read_text() == before
    assert [path.name for path in folder.parent.glob(".gpu-kit.*")] == []


def test_no_compiler_is_one_sentence(tileiras: Tileiras, tmp_path: Path) -> None:
    codes = norms()
    tileiras.remove()
    with pytest.raises(PackError, match="tileiras, is not installed"):
        pack.pack(tmp_path / "kit", "sm_90", PYTHON, codes, compiling=False)


def test_a_kit_with_a_missing_kernel_is_not_called_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys; print('norm: not in the store'); sys.exit(1)"
    monkeypatch.setattr(pack, "DRY_RUN", (sys.executable, "-c", script))
    with pytest.raises(PackError, match="is not complete:\nnorm: not in the store"):
        pack.verify(tmp_path)


def test_the_compiler_travels_as_a_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "STRONGEST", 0)
    monkeypatch.setattr(compiler, "FILES", ("bin/ptxas",))
    assert compiler.environment(tmp_path) == {}
    compiler.unpack(tmp_path)
    compiler.pack(tmp_path)
    compiler.unpack(tmp_path)
    found = compiler.environment(tmp_path)
    assert found["CUDA_HOME"] == str(tmp_path / "compiler")
    program = Path(found["PATH"].split(os.pathsep)[0], "ptxas")
    assert subprocess.run([program, "--version"], check=True, capture_output=True).stdout


@pytest.mark.full
def test_what_is_needed_covers_benches_and_models() -> None:
    listed = {title for title, _, _ in needed.op_calls()}
    assert calls.NORMS.keys() <= listed
    by_kernel = {code.key.kernel for code in needed.model_codes("sm_90")}
    assert {"attention", "rms_norm", "add_rms_norm", "rotary_qk", "silu_mul"} <= by_kernel


def test_every_program_of_the_step_fusions_has_its_kernels() -> None:
    by_program = {
        target.title: {code.key.kernel for code in needed.target_codes(target, "sm_90")}
        for target in needed.fusion_targets()
    }
    assert all(by_program.values())
    assert "rms_norm" in by_program["rms_norm 8192x4096 bfloat16 forward"]
    assert "attention" in by_program["llama causal 4x2048"]


def test_a_norm_without_data_lies_like_one_with() -> None:
    for name in calls.NORMS.keys() - {"wide"}:
        real, meta = (calls.norm_input(name, device) for device in ("cpu", "meta"))
        assert (real.shape, real.stride()) == (meta.shape, meta.stride())
        assert real.storage_offset() == meta.storage_offset()
        assert (real.data_ptr() % 16 == 0) == (name != "misaligned")
    assert calls.norm_input("wide", "meta").numel() > 2**31
    assert real.dtype is torch.bfloat16
