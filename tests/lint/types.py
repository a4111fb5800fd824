"""`python -m tests.lint.types`: mypy --strict over the three packages, the linters and the benches.

mypy knows a package by its folder, but `patterns/` and `lowering/` are installed inside
`tile_backend` (see setup.cfg). So mypy is shown a folder of links in which they lie there, and its
output is translated back to the paths of the checkout. Editors use the same folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.lint.source_tree import PACKAGES, ROOT

LINKS = Path(".cache") / "typed"
CHECKED = ("-p", "tile_backend", "-p", "bench", "-p", "tests.lint")


def link_tree(root: Path = ROOT) -> Path:
    """Build the folder of links: `tile_backend/` with patterns and lowering inside."""
    links = root / LINKS
    shutil.rmtree(links, ignore_errors=True)
    package = links / "tile_backend"
    package.mkdir(parents=True)
    for entry in sorted((root / "tile_backend").iterdir()):
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for folder, name in PACKAGES.items():
        if "." in name:
            (package / folder).symlink_to(root / folder)
    for folder in ("bench", "tests"):
        (links / folder).symlink_to(root / folder)
    return links


def real_path(line: str) -> str:
    """A line of mypy's output with the paths of the checkout."""
    for folder in PACKAGES:
        line = line.replace(f"{LINKS}/tile_backend/{folder}/", f"{folder}/")
    return line.replace(f"{LINKS}/", "")


def run_mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run mypy on the links; `arguments` replace the packages that are checked."""
    link_tree()
    command = [sys.executable, "-m", "mypy", *(arguments or CHECKED)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> int:
    """mypy's exit status."""
    result = run_mypy(*sys.argv[1:])
    print("\n".join(map(real_path, (result.stdout + result.stderr).splitlines())))
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
