"""`make gpu-kit`: a folder, and one archive of it, for a GPU machine without a network or compiler.

It holds the tests and benches, our own wheel and cuda-tile's for that machine's Python, and the
compiled kernels that the check launches on that architecture. That machine has to have torch (a
CUDA build), transformers, rich, pytest and make. Nothing of this needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from bench import result_file
from tests.gpu_kit import compiler, needed, peers
from tile_backend import precompile
from tile_backend.errors import TileBackendError
from tile_backend.lowering import cubin_store, kernel_code
from tile_backend.lowering.kernel_code import Code
from tile_backend.lowering.kernels import tileiras
from tile_backend.lowering.kernels.build_error import MissingError

ROOT = result_file.ROOT
MANIFEST = "kit.json"
CHECKOUT = ("tests", "bench", "Makefile", "constraints.txt", "pyproject.toml", "setup.cfg")
"""What of the checkout the check runs; the package itself is in its wheel."""
PACKAGES = ("tile_backend", "lowering", "patterns")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
DRY_RUN = (sys.executable, "-m", "tests.gpu_kit.dry_run")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


class PackError(Exception):
    """The kit cannot be made; the text says why and what to do."""


def pack(folder: Path, arch: str, python: str, codes: Iterable[Code], compiling: bool) -> Path:
    """Fill the folder; the archive beside it. compiling: take the compiler along (60 MB).

    Raises PackError; what was there before is then still there.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise PackError(f"{folder} exists and is no kit: name another folder with --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        fresh = Path(scratch, folder.name)
        fresh.mkdir()
        kernels = copy_kernels(codes, fresh / "kernels")
        copy_checkout(fresh)
        (fresh / "wheels").mkdir()
        own_wheel(fresh / "wheels")
        cuda_tile_wheel(fresh / "wheels", python)
        others = peers.pack(fresh / "wheels")
        if compiling:
            compiler.pack(fresh)
        facts = {
            "commit": result_file.commit(),
            "arch": arch,
            "python": python,
            "kernels": kernels,
            "peers": others,
            "compiler": compiler_version(),
            "packed_with": result_file.versions(),
        }
        (fresh / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        archive = folder.with_name(f"{folder.name}.tar")
        with tarfile.open(archive, "w") as tar:  # the kernels in it are compressed
            tar.add(fresh, folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return archive


def copy_kernels(codes: Iterable[Code], target: Path) -> int:
    """Compile what the default store lacks, and copy these kernels out of it; their number."""
    wanted = set(codes)
    problems = kernel_code.missing(wanted, compiles=True)
    if problems:
        lines = sorted(f"  {code.key.kernel}: {why}" for code, why in problems.items())
        raise PackError("\n".join([f"{len(lines)} kernels cannot be compiled:", *lines]))
    target.mkdir()
    for code in wanted:
        path = cubin_store.default().path(code.key, compiler_version())
        try:
            shutil.copy2(path, target)
        except OSError as error:
            raise PackError(f"a compiled kernel cannot be copied: {error}") from error
    return len(wanted)


def compiler_version() -> str:
    """Raises PackError where there is no tileiras."""
    found = tileiras.found()
    if isinstance(found, MissingError):
        raise PackError(f"kernels cannot be compiled: {found}")
    return found.version


def copy_checkout(target: Path) -> None:
    """Tracked files, and new ones that git does not ignore, as they are now."""
    listed = result_file.git("ls-files", "--cached", "--others", "--exclude-standard", *CHECKOUT)
    for name in listed.splitlines():
        source = ROOT / name
        if source.is_file() and not name.startswith("bench/results/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def own_wheel(target: Path) -> None:
    """Built here, from the files as they are now."""
    with tempfile.TemporaryDirectory() as scratch:  # setuptools leaves its traces in the source
        for name in PACKAGES:
            shutil.copytree(
                ROOT / name, Path(scratch, name), ignore=shutil.ignore_patterns("__py*")
            )
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(ROOT / name, scratch)
        offline = ("--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir")
        run((*PIP, "wheel", *offline, "--wheel-dir", str(target), scratch))


def cuda_tile_wheel(target: Path, python: str) -> None:
    """For that Python, of the version installed here."""
    choice = ("--no-deps", "--only-binary=:all:", "--implementation", "cp")
    choice += ("--python-version", python, *(f"--platform={name}" for name in PLATFORMS))
    package = f"cuda-tile=={version('cuda-tile')}"
    run((*PIP, "download", *choice, "--dest", str(target), package))


def verify(folder: Path) -> None:
    """Raises PackError where the check would launch a kernel that the folder lacks."""
    result = subprocess.run(
        DRY_RUN,
        cwd=ROOT,
        env={**os.environ, cubin_store.FOLDER: str(folder / "kernels")},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise PackError(f"{folder} is not complete:\n{result.stdout}{result.stderr}")


def run(command: Sequence[str]) -> None:
    """Raises PackError with what the command said."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise PackError(
            f"{' '.join(command[3:5])} failed:\n{(result.stderr or result.stdout).strip()}"
        )


def size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def main() -> None:
    """Pack, and say what to do with the result."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser = argparse.ArgumentParser(
        prog="make gpu-kit", description="Pack what a GPU machine needs."
    )
    parser.add_argument("--arch", default="sm_90", help="of its GPU (default: sm_90, Hopper)")
    parser.add_argument("--python", default=here, help=f"its Python (default: {here})")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-kit", help="the folder to write")
    parser.add_argument("--compiler", action="store_true", help="take the compiler along (60 MB)")
    given = parser.parse_args()
    os.environ.setdefault(cubin_store.FOLDER, str(ROOT / ".cache" / "kernels"))
    try:
        (arch,) = precompile.checked([given.arch])
        archive = pack(given.out, arch, given.python, needed.codes(arch), given.compiler)
        verify(given.out)
    except (PackError, TileBackendError) as error:
        sys.exit(f"make gpu-kit: {error}")
    facts = json.loads((given.out / MANIFEST).read_text())
    print(
        f"{archive}: {size(archive)}, {facts['kernels']} kernels for {arch}, Python {given.python}"
    )
    for name, told in facts["peers"].items():
        print(f"{name}: {told}")
    print(f"there: tar xf {archive.name} && make -C {given.out.name} gpu-check")


if __name__ == "__main__":
    main()
