"""The doctor: its verdicts on made-up machines, and that it works on this one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tile_backend import machine, supported
from tile_backend.doctor import Diagnosis, examine, kernel_store
from tile_backend.errors import UnsupportedPython, UnsupportedTorch
from tile_backend.machine import Gpu

GOLDEN = Path(__file__).parent / "golden"
HOPPER = Diagnosis(
    python="3.12.3",
    torch="2.13.0+cu130",
    torch_cuda="13.0",
    transformers="5.23.0",
    cuda_tile="1.7.0",
    tileiras="13.4.92",
    driver="580.1 (CUDA 13.0)",
    gpus=(Gpu("NVIDIA H200", (9, 0)),),
    compiler="/usr/bin/g++",
    store="/cache/kernels",
    stored={"sm_90": 7, "sm_80": 2},
    tuning="/data/tuning",
    tuned={"sm_90": (12, 3), "sm_80": (1, 0)},
)


def verdicts(**changes: Any) -> dict[str, str]:
    found = dataclasses.replace(HOPPER, **changes)
    return {ability.what: ability.row()[1] for ability in found.abilities()}


def test_a_machine_that_has_everything() -> None:
    golden = (GOLDEN / "doctor.txt").read_text()
    version = examine().to_text().splitlines()[0].split()[1]
    assert HOPPER.to_text() + "\n" == golden.replace("VERSION", version)
    assert HOPPER.healthy


@pytest.mark.parametrize(
    ("changes", "ability", "verdict", "healthy"),
    (
        (
            {"cuda_tile": ""},
            "build kernels",
            "no: cuda-tile is not installed; pip install 'tile-backend[kernels]'",
            True,
        ),
        (
            {"cuda_tile": ""},
            "run kernels",
            "no: cuda-tile is not installed; pip install 'tile-backend[kernels]'",
            True,
        ),
        (
            {"tileiras": "", "stored": {"sm_80": 2}},
            "run kernels",
            (
                "no: cuda-tile is there, but its compiler tileiras is not; "
                "pip install 'tile-backend[kernels]'"
            ),
            True,
        ),
        ({"tileiras": ""}, "run kernels", "yes, only the 7 that are in the store", True),
        ({"tileiras": "unknown"}, "run kernels", "yes, only the 7 that are in the store", True),
        (
            {"tileiras": "unknown"},
            "build kernels",
            "no: tileiras does not run; pip install 'tile-backend[kernels]' --force-reinstall",
            True,
        ),
        (
            {"torch_cuda": ""},
            "run kernels",
            "no: this torch is a CPU build; install a CUDA build of torch",
            True,
        ),
        (
            {"driver": ""},
            "run kernels",
            "no: no NVIDIA driver was found; install the NVIDIA driver",
            True,
        ),
        (
            {"gpus": ()},
            "run kernels",
            "no: torch sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES",
            True,
        ),
        (
            {"gpus": (Gpu("Tesla T4", (7, 5)),)},
            "run kernels",
            "no: the kernels need sm_80 or newer, and this is sm_75",
            True,
        ),
        (
            {"compiler": ""},
            "compile models",
            "no: no C++ compiler was found; install g++, or name one with CXX=",
            False,
        ),
        (
            {"torch": "2.10.1"},
            "compile models",
            "no: torch 2.10.1; install torch 2.11 to 2.15",
            False,
        ),
        (
            {"torch": ""},
            "match and explain",
            "no: torch is not installed; install torch 2.11 to 2.15",
            False,
        ),
        (
            {"python": "3.10.2"},
            "match and explain",
            "no: Python 3.10.2; use Python 3.11 to 3.14",
            False,
        ),
    ),
)
def test_what_is_missing_is_said_with_its_remedy(
    changes: dict[str, Any], ability: str, verdict: str, healthy: bool
) -> None:
    assert verdicts(**changes)[ability] == verdict
    assert dataclasses.replace(HOPPER, **changes).healthy is healthy


def test_facts_say_what_is_not_there() -> None:
    text = dataclasses.replace(
        HOPPER,
        **dict.fromkeys(("cuda_tile", "tileiras", "driver", "torch_cuda"), ""),
        transformers="5.30.0",
        gpus=(),
        stored={},
    ).to_text()
    for line in (
        "torch         2.13.0+cu130 (CPU build)",
        "transformers  5.30.0 (tested: 5.17 to 5.23)",
        "cuda-tile     not installed",
        "tileiras      not found",
        "driver        not found",
        "GPU           none",
        "kernel store  /cache/kernels (empty)",
    ):
        assert line in text.splitlines()


def test_this_machine_is_examined_without_importing_cuda_tile() -> None:
    code = (
        "import sys; from tile_backend.doctor import examine; "
        "examine(); print('cuda.tile' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_a_tileiras_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "tileiras"
    broken.write_text("#!/bin/sh\nexit 5\n")
    broken.chmod(0o755)
    monkeypatch.setattr(machine, "tileiras_path", lambda: str(broken))
    assert machine.tileiras_version() == "unknown"
    broken.write_text("#!/bin/sh\necho 'release 13.4, V13.4.92'\n")
    assert machine.tileiras_version() == "13.4.92"
    monkeypatch.setattr(machine, "tileiras_path", lambda: "")
    assert machine.tileiras_version() == ""


def test_the_store_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_KERNEL_STORE", str(tmp_path))
    for name in ("rms_norm-sm_90-aa-13.4.92", "rms_norm-sm_90-bb-13.4.92", "softmax-sm_80-a-1"):
        (tmp_path / f"{name}.cubin.xz").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a kernel")
    found = kernel_store()
    assert found == {"store": str(tmp_path), "stored": {"sm_90": 2, "sm_80": 1}}


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert machine.package_version("no-such-distribution-here") == ""


@pytest.mark.parametrize("version", ((3, 11), (3, 14)))
def test_supported_python(version: supported.Version) -> None:
    supported.check_python(version)


@pytest.mark.parametrize("version", ((3, 10), (3, 15)))
def test_unsupported_python_is_one_sentence(version: supported.Version) -> None:
    with pytest.raises(UnsupportedPython) as caught:
        supported.check_python(version)
    assert str(caught.value) == (
        f"Python 3.{version[1]} is not supported: tile-backend needs Python 3.11 to 3.14. "
        "Create the environment with one of these."
    )


@pytest.mark.parametrize("version", ("2.11.0", "2.13.0+cpu", "2.15.0a0+git123"))
def test_supported_torch(version: str) -> None:
    supported.check_torch(version)


@pytest.mark.parametrize("version", ("2.10.1", "2.16.0", "unreadable"))
def test_unsupported_torch_names_the_range(version: str) -> None:
    with pytest.raises(UnsupportedTorch) as caught:
        supported.check_torch(version)
    assert str(caught.value) == (
        f"torch {version} is not supported: this version of tile-backend needs torch 2.11 to 2.15. "
        "Install one of these, for example: pip install 'torch==2.15.*'."
    )
