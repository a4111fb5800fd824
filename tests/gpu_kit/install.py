"""A Python environment for a kit, without a network: `python3 -m tests.gpu_kit.install FOLDER`.

It sees what the Python that runs this sees (torch, transformers, pytest), and the kit's wheels.
Only the standard library is used, since nothing else is installed yet; pip is that Python's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from tests.gpu_kit import compiler

KIT = Path(__file__).resolve().parents[2]
NEEDED = ("torch", "transformers", "rich", "pytest")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


class InstallError(Exception):
    """The environment cannot be made; the text says what to do."""


def install(kit: Path, folder: Path) -> None:
    """Make the environment. Raises InstallError."""
    facts = json.loads((kit / "kit.json").read_text())
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if facts["python"] != here:
        raise InstallError(
            f"the kit is for Python {facts['python']} and this is {here}: name another one with"
            f' PYTHON=, or pack a kit with: make gpu-kit ARGS="--python {here}"'
        )
    venv.create(folder, system_site_packages=True, with_pip=False)
    site_packages = folder / "lib" / f"python{here}" / "site-packages"
    # Where this Python is an environment itself, the new one sees only what that was made from.
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    lines = (f"import site; site.addsitedir({path!r})\n" for path in seen)
    (site_packages / "packages_of_the_machine.pth").write_text("".join(lines))
    wheels = [str(path) for path in sorted((kit / "wheels").glob("*.whl"))]
    run((*PIP, "install", "--no-index", "--no-deps", "--target", str(site_packages), *wheels))
    missing = [name for name in (*NEEDED, "tile_backend") if not importable(folder, name)]
    if missing:
        raise InstallError(
            f"{sys.executable} has no {' and no '.join(missing)}: install them first"
        )
    compiler.unpack(kit)


def importable(folder: Path, name: str) -> bool:
    """Whether the new environment finds a package."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return not subprocess.run([folder / "bin" / "python", "-I", "-c", code], check=False).returncode


def run(command: Sequence[str]) -> None:
    """Raises InstallError with what the command said."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise InstallError(f"pip failed:\n{(result.stderr or result.stdout).strip()}")


if __name__ == "__main__":
    try:
        install(KIT, Path(sys.argv[1]))
    except (InstallError, OSError) as error:
        sys.exit(f"make gpu-check: {error}")
