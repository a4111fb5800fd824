"""What is read from a file is data, and what is written is whole: habits of product code.

Pickles run code while they are loaded, and so does text that is evaluated. A file of ours is JSON,
xz or the tensors of `torch.load(..., weights_only=True)`; docs/trust.md lists them all. Whoever
writes a file does it through `atomic_write`, so that no process reads half of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.lint.imports import imported, inside
from tests.lint.source_tree import Finding, SourceTree

LOADERS = (
    *("pickle", "_pickle", "cPickle", "marshal", "shelve", "dbm", "copyreg", "dill", "cloudpickle"),
    *("joblib", "jsonpickle", "yaml", "runpy", "code", "codeop"),
)
"""Modules that make objects or code of bytes."""
EVALUATES = ("eval", "exec", "compile", "__import__")
METHODS = ("parse_expr", "load_module", "exec_module", "unsafe_load", "read_pickle")
"""Functions of modules that evaluate text, or run a file, whatever they are called on."""


def loaded_code(tree: SourceTree) -> Iterator[Finding]:
    """Product code neither unpickles nor evaluates."""
    for module in tree.shipped():
        for node in ast.walk(module.tree):
            for name in imported(node):
                if any(inside(name, loader) for loader in LOADERS):
                    yield module.finding(node, f"imports {name}: what it reads can run code")
            if isinstance(node, ast.Call) and (wrong := fault(node)):
                yield module.finding(node, wrong)


WRITES = ("write_text", "write_bytes", "touch")
DIRECT_WRITERS = {
    "lowering/atomic_write.py": "it is what the others write through",
    "lowering/kernels/tileiras.py": "files of one compile, in a folder of its own",
    "tile_backend/fusion_table.py": "a page of the docs, written by a developer",
    "tile_backend/step_memory.py": "a switch of the kernel in /proc",
}
"""The files that write without it, and what."""


def whole_files(tree: SourceTree) -> Iterator[Finding]:
    """Product code writes files through `atomic_write`, whole or not at all."""
    for module in tree.shipped():
        if module.path in DIRECT_WRITERS:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and writes_directly(node):
                name = ast.unparse(node.func)
                yield module.finding(
                    node, f"calls {name}: write through lowering/atomic_write.py, whole or not"
                )


def writes_directly(call: ast.Call) -> bool:
    """`path.write_text(...)`, and `open` with a mode that writes."""
    function = call.func
    if isinstance(function, ast.Attribute):
        ours = ast.unparse(function.value).endswith("atomic_files")
        name, modes = function.attr, call.args[:1]
    else:
        ours, name, modes = False, ast.unparse(function), call.args[1:2]
    if name in WRITES and isinstance(function, ast.Attribute):
        return not ours
    modes = modes + [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    words = [ast.literal_eval(mode) for mode in modes if isinstance(mode, ast.Constant)]
    return name == "open" and any(set("wax+") & set(str(word)) for word in words)


def fault(call: ast.Call) -> str:
    """Why a call is not allowed, or ""."""
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in EVALUATES or last in METHODS:
        return f"calls {name}: what is read from a file must not be run"
    if name == "torch.load" and not is_constant(given.get("weights_only"), True):
        return "calls torch.load without weights_only=True: a file could run code"
    if last in ("sympify", "S") and not is_constant(given.get("strict"), True):
        return f"calls {name} without strict=True: it would evaluate a text"
    if last == "load" and is_constant(given.get("allow_pickle"), True):
        return f"calls {name} with allow_pickle=True: a file could run code"
    if last == "from_pretrained" and not is_constant(given.get("trust_remote_code"), False):
        return f"calls {name} without trust_remote_code=False: a folder could run code"
    return ""


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
