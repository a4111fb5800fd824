"""What pip installs is complete: the mapped folders, the entry points, the metadata."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.message import Message

import pytest

from tests.lint.source_tree import PACKAGES, ROOT, checkout
from tile_backend.lowering import tuning_store

BUILD = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of the checked-out files, built without the network."""
    source = tmp_path_factory.mktemp("source")
    for path, text in checkout().text.items():
        if path.split("/")[0] in {*PACKAGES, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_text(text, encoding="utf-8")
    target = tmp_path_factory.mktemp("wheel")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir", "--verbose")
    command = [*BUILD, *offline, "--wheel-dir", str(target), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    warnings = [line for line in (result.stdout + result.stderr).splitlines() if "Warning:" in line]
    assert warnings == []
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def read(wheel: zipfile.ZipFile, suffix: str) -> str:
    (name,) = (name for name in wheel.namelist() if name.endswith(suffix))
    return wheel.read(name).decode()


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(read(wheel, ".dist-info/METADATA"))


def test_the_wheel_holds_every_shipped_module_under_its_installed_name(
    wheel: zipfile.ZipFile,
) -> None:
    installed = {name for name in wheel.namelist() if name.endswith(".py")}
    expected = set()
    for module in checkout().shipped():
        folder, _, rest = module.path.partition("/")
        expected.add(f"{PACKAGES[folder].replace('.', '/')}/{rest}")
    assert installed == expected
    assert "tile_backend/lowering/kernels/__init__.py" in installed


def test_the_wheel_is_marked_as_typed(wheel: zipfile.ZipFile) -> None:
    assert "tile_backend/py.typed" in wheel.namelist()


def test_the_wheel_holds_what_pages_are_made_of(wheel: zipfile.ZipFile) -> None:
    files = {path.name for path in (ROOT / "tile_backend").iterdir()}
    wanted = {name for name in files if name.endswith((".css", ".js", ".html"))}
    dump = {"dump_page.css", "dump_page.js", "dump_page.html"}
    assert wanted == {"page_style.css", *dump, "tour_page.css", "tour_page.html"}
    assert {f"tile_backend/{name}" for name in wanted} <= set(wheel.namelist())


def test_the_wheel_holds_the_shipped_measurements(wheel: zipfile.ZipFile) -> None:
    files = {f"tile_backend/lowering/tuned/{p.name}" for p in tuning_store.SHIPPED.glob("*.json")}
    assert files
    assert files <= set(wheel.namelist())


def test_the_wheel_installs_no_other_top_level_name(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {
        "tile_backend",
        f"tile_backend-{metadata_version()}.dist-info",
    }


def metadata_version() -> str:
    from tile_backend.version import VERSION

    return VERSION


def test_metadata(metadata: Message, wheel: zipfile.ZipFile) -> None:
    assert metadata["Name"] == "tile-backend"
    assert metadata["Version"] == metadata_version()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.15,>=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "kernels",
        "demo",
        "test",
        "bench",
        "lint",
    }
    assert "TERMS AND CONDITIONS" in read(wheel, "/LICENSE")


def test_the_kernels_extra_can_be_installed_beside_a_cuda_build_of_torch(
    metadata: Message,
) -> None:
    # cuda-tile[tileiras] asks for a newer cuda-toolkit than the one that torch pins.
    required = [line for line in metadata.get_all("Requires-Dist", []) if "kernels" in line]
    assert [line for line in required if "[tileiras]" in line or "cuda-toolkit" in line] == []
    assert {line.split("=")[0].split("<")[0] for line in required} == {
        "cuda-tile",
        "nvidia-cuda-nvcc",
        "nvidia-cuda-tileiras",
        "nvidia-nvvm",
    }


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    points = ConfigParser()
    points.read_string(read(wheel, "entry_points.txt"))
    assert dict(points["torch_dynamo_backends"]) == {"tilegym": "tile_backend.entry_point:tilegym"}
    assert dict(points["console_scripts"]) == {"tile-backend": "tile_backend.cli:main"}


def test_torch_lists_the_backend() -> None:
    import torch

    assert "tilegym" in torch.compiler.list_backends()


def test_constraints_pin_everything_that_is_required() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if pin.count("==") != 1] == []
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"].split()
    for extra in setup["options.extras_require"].values():
        wanted += extra.split()
    pinned = {pin.split("==")[0].lower() for pin in pins}
    assert {name(requirement) for requirement in wanted} <= pinned


def name(requirement: str) -> str:
    """The distribution in "cuda-tile>=1.7,<1.8"."""
    return requirement.replace("<", "=").replace(">", "=").split("=")[0].lower()


@pytest.mark.parametrize("path", (".ci/run",))
def test_scripts_are_executable(path: str) -> None:
    assert (ROOT / path).stat().st_mode & 0o111


def test_ci_goes_on_without_a_browser() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\nmake browser || " in text
    assert text.index("make browser") < text.index("\nmake test")


def test_ci_runs_make_test() -> None:
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").endswith("\nmake test\n")
