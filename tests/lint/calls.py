"""Names and calls that do not belong: prints, bare excepts, CUDA literals, empty module names."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.lint.source_tree import Finding, Module, SourceTree

PRINTERS = (
    "tile_backend/cli.py",
    "tile_backend/demo.py",
    "bench/",
    "tests/coverage/",
    "tests/gpu_kit/",
    "tests/kernel_report/",
    "tests/lint/",
    "tests/mutants/",
    "tests/fuzz/",
)
"""Files whose work is to talk to a person on stdout."""

FAKE_GPU = "fake_gpu"
"""A fixture that enters a FakeTensorMode for the length of a test."""

EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def prints(tree: SourceTree) -> Iterator[Finding]:
    """Only the command line, the demo and the benches print."""
    for module in tree.python:
        if module.path.startswith(PRINTERS):
            continue
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("print", "pprint")
            ):
                yield module.finding(
                    node, "prints: return the text, or log it on the tile_backend logger"
                )


def bare_except(tree: SourceTree) -> Iterator[Finding]:
    """No `except:`; no handler that swallows every error without a word."""
    for module in tree.python:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "" if node.type is None else ast.unparse(node.type)
            swallows = all(isinstance(statement, ast.Pass) for statement in node.body)
            if not caught:
                yield module.finding(node, "catches everything: name the errors")
            elif swallows and caught in ("Exception", "BaseException"):
                yield module.finding(node, f"swallows {caught}: name the errors, or report them")


def empty_names(tree: SourceTree) -> Iterator[Finding]:
    """No module is called utils, helpers or manager: a name says the idea."""
    for module in tree.python:
        words = set(module.name.rpartition(".")[2].split("_"))
        for word in sorted(words & EMPTY_NAMES):
            yield module.finding(
                1, f"a module called {word} has no idea: name it after what it does"
            )


def cuda_literals(tree: SourceTree) -> Iterator[Finding]:
    """Tests put tensors on a CUDA device only under the `gpu` marker: they run on any machine.

    Inside FAKE_GPU every tensor is fake, and a fake tensor of type cuda needs no GPU.
    """
    for module in tree.python:
        if module.path.startswith("tests/test_") and not _marked_gpu(module.tree.body):
            yield from _cuda_literals(module, module.tree)


def _cuda_literals(module: Module, parent: ast.AST) -> Iterator[Finding]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and _marked_gpu(node.decorator_list):
            continue
        if isinstance(node, ast.FunctionDef) and FAKE_GPU in {a.arg for a in node.args.args}:
            continue
        keyword = isinstance(node, ast.keyword) and node.arg == "device" and _is_cuda(node.value)
        call = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and (
                node.func.attr == "cuda"
                or (node.func.attr == "to" and any(map(_is_cuda, node.args)))
            )
        )
        if keyword or call:
            yield module.finding(
                node.value if isinstance(node, ast.keyword) else node,
                'uses a "cuda" device outside a test marked @pytest.mark.gpu',
            )
        yield from _cuda_literals(module, node)


def _is_cuda(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.split(":")[0] == "cuda"
    )


def _marked_gpu(nodes: list[ast.stmt] | list[ast.expr]) -> bool:
    """Whether decorators, or a module's `pytestmark = ...`, hold the marker."""
    return any(
        "mark.gpu" in ast.unparse(node)
        for node in nodes
        if isinstance(node, ast.expr)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark")
    )
