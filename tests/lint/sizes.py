"""How long files and functions may be: small enough that one idea fits on a few screens.

A file over the limit says why in its docstring, in a sentence that starts with `REASON`; so does a
function, in its own docstring. Tables of data are exempt from the function limit by being data.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator

from tests.lint.source_tree import Finding, Module, SourceTree

FILE_LINES = 300
MEDIAN_LINES = 150
FUNCTION_LINES = 40
REASON = "Longer than {limit} lines because"


def file_lines(tree: SourceTree) -> Iterator[Finding]:
    """No file is longer than FILE_LINES without a reason."""
    reason = REASON.format(limit=FILE_LINES)
    for module in tree.python:
        lines = module.source.count("\n")
        if lines > FILE_LINES and reason not in " ".join(module.docstring.split()):
            yield module.finding(
                1,
                f"{lines} lines: split the file by idea, or give the reason in its docstring in "
                f'a sentence that starts "{reason}"',
            )


def median_file(tree: SourceTree) -> Iterator[Finding]:
    """The median of the shipped files is at most MEDIAN_LINES."""
    lines = [module.source.count("\n") for module in tree.shipped()]
    median = statistics.median(lines) if lines else 0
    if median > MEDIAN_LINES:
        yield Finding(
            "tile_backend, patterns, lowering",
            1,
            f"the median file has {median:.0f} lines, over {MEDIAN_LINES}: split files by idea",
        )


def function_lines(tree: SourceTree) -> Iterator[Finding]:
    """No function is longer than FUNCTION_LINES, docstring and decorators not counted."""
    for module in tree.python:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _long_function(module, node)


def _long_function(
    module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[Finding]:
    docstring = ast.get_docstring(node, clean=False)
    first = node.body[1] if docstring is not None and len(node.body) > 1 else node.body[0]
    lines = (node.end_lineno or first.lineno) - first.lineno + 1
    reason = REASON.format(limit=FUNCTION_LINES)
    if lines > FUNCTION_LINES and reason not in " ".join((docstring or "").split()):
        yield module.finding(
            node,
            f"{node.name} has {lines} lines: split it, or give the reason in its docstring in a "
            f'sentence that starts "{reason}"',
        )
