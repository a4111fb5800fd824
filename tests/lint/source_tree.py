"""The files that the habit checks read: what git tracks, and what it would if it were added.

`SourceTree.python` holds parsed modules, `SourceTree.text` every text file. Paths are relative to
the root and use forward slashes. A tree can also be made from strings, to test a check.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "tile_backend": "tile_backend",
    "patterns": "tile_backend.patterns",
    "lowering": "tile_backend.lowering",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One broken habit: where, and one sentence that says what to do."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Module:
    """One Python file. `name` is what it is imported as: "tile_backend.patterns.softmax"."""

    path: str
    source: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @property
    def name(self) -> str:
        top, *rest = self.path.removesuffix(".py").removesuffix("/__init__").split("/")
        return ".".join([PACKAGES.get(top, top), *rest])

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def shipped(self) -> bool:
        return self.path.split("/")[0] in PACKAGES

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    def finding(self, node: ast.AST | int, text: str) -> Finding:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Finding(self.path, line, text)


@dataclasses.dataclass(frozen=True)
class SourceTree:
    """Text files by path."""

    text: Mapping[str, str]

    @functools.cached_property
    def python(self) -> tuple[Module, ...]:
        return tuple(
            Module(path, source) for path, source in self.text.items() if path.endswith(".py")
        )

    def shipped(self) -> Iterator[Module]:
        """The modules that are installed."""
        return (module for module in self.python if module.shipped)


def checkout() -> SourceTree:
    """The files of this checkout, sorted by path; git must be at hand."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = {}
    for path in sorted(set(listing.split("\0")) - {""}):
        file = ROOT / path
        if not file.is_file():  # deleted, and the deletion is not committed yet
            continue
        try:
            text[path] = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # not text: nothing here to check
            continue
    return SourceTree(text)
