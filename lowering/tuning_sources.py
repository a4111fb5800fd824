"""A digest of the kernels behind a measurement: what was measured with other code says nothing.

Of an op with a kernel file, that file and every file of lowering/kernels that it imports, plan and
tiles included. An op without one is made of others, so all of those files stand for it; and for a
slice, since the steps of its ops and their backward launch kernels that no way is named after.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "kernels"
PACKAGE = "tile_backend.lowering.kernels"
EVERY_OP = "*"


def sources_behind(sort: str, kind: str) -> str:
    """Of an entry of that sort and kind."""
    return sources_of(kind.partition(" ")[0] if sort == "configuration" else EVERY_OP)


@functools.cache
def sources_of(op: str) -> str:
    """In hexadecimal; of the files as they are when first asked for."""
    total = hashlib.sha256()
    for path in sorted(files_behind(op)):
        total.update(f"{path.name}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]


@functools.cache
def files_behind(op: str) -> frozenset[Path]:
    """The files of lowering/kernels that an op's launch is made of."""
    own, every = FOLDER / f"{op}.py", frozenset(FOLDER.glob("*.py"))
    if own not in every:  # the name may come from a file, so no path is made of it
        return every
    found: set[Path] = set()
    waiting = [own]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported(path)
    return frozenset(found)


@functools.cache
def imported(path: Path) -> tuple[Path, ...]:
    """The files of the folder that one of them names in an import."""
    tree = ast.parse(path.read_bytes())
    names = (
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
        for name in names_in(node)
    )
    return tuple(file for name in names if (file := FOLDER / f"{name}.py").is_file())


def names_in(node: ast.ImportFrom) -> Iterable[str]:
    """The modules: `from PACKAGE import a, b` or `from PACKAGE.a import f`."""
    inner = (node.module or "").removeprefix(PACKAGE).lstrip(".")
    return (inner,) if inner else (alias.name for alias in node.names)
