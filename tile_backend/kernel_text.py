"""The text of a kernel, found by the place that a report names: "lowering/kernels/x.py:28"."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import tile_backend.lowering


@functools.cache
def function_at(source: str) -> str:
    """The function at that line, decorators included; "" where it is not the project's own."""
    path, _, line = source.rpartition(":")
    file = Path(tile_backend.lowering.__path__[0]).parent / path
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return ""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == int(line):
                return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return ""
