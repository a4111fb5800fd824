"""What is read from a file is data: no product code runs what somebody has put into one.

Pickles run code while they are loaded, and so does text that is evaluated. A file of ours is JSON,
xz or the tensors of `torch.load(..., weights_only=True)`; docs/trust.md lists them all.
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
