"""Where a node of a graph came from, in the user's words: module path, call stack, source line.

Read from a node's metadata, which Dynamo writes and AOTAutograd passes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

_FRAME = re.compile(
    r'^\s*File "(?P<path>(?s:.+?))", line (?P<line>\d+), in (?P<function>.+)$', re.MULTILINE
)
_ROOT = re.compile(r"^[LG]\[['\"](\w+)['\"]\](?:\.__self__)?\.?")
"""A local or global name; a module of torch itself, such as Sequential, is compiled as `fn`."""
_TORCH = f"{torch.__path__[0]}{os.sep}"
"""The folder of torch itself: what a user looks for is the line that calls into it."""
_OWN = ("self", "fn")
"""The root that a path is relative to."""
_HELD = r"_(?:modules|parameters|buffers)"
"""Where a module holds what its user reaches as an attribute."""
_DICT = re.compile(rf"\.__dict__\[['\"]({_HELD})['\"]\]")
"""The same where a class has a `__getattr__` of its own, as `peft`'s models do."""


def frames(meta: Mapping[str, Any]) -> tuple[tuple[str, int, str], ...]:
    """(file, line, function) of the call stack that produced the node, outermost first."""
    trace = meta.get("stack_trace") or ""
    return tuple(
        (match["path"], int(match["line"]), match["function"]) for match in _FRAME.finditer(trace)
    )


def user_frame(meta: Mapping[str, Any]) -> tuple[str, int, str]:
    """The innermost frame that is not torch's own, as `F.rms_norm` inside `nn.RMSNorm` is.

    The innermost of all where each is torch's, and ("", 0, "") for a node without a call stack.
    """
    stack = frames(meta)
    outside = [frame for frame in stack if not frame[0].startswith(_TORCH)]
    return (outside or stack or (("", 0, ""),))[-1]


def source_line(meta: Mapping[str, Any]) -> str:
    """`modeling_llama.py:68`, the `user_frame`, or ""."""
    path, line, _function = user_frame(meta)
    name = encodable(path).replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name}:{line}" if path else ""


def encodable(text: str) -> str:
    """Without what UTF-8 has no form for: the path of a file may hold any byte."""
    return text.encode(errors="replace").decode()


def module_path(meta: Mapping[str, Any]) -> str:
    """`model.layers.0.mlp`, relative to the compiled root; "" for code outside any submodule."""
    stack = meta.get("nn_module_stack") or meta.get("fwd_nn_module_stack") or {}
    if not stack:
        return ""
    return normalised_path(encodable(str(list(stack.values())[-1][0])))


def normalised_path(path: str) -> str:
    """Dynamo's `L['self'].model.layers[0]._modules['mlp']` as a user writes it."""
    path = _DICT.sub(r".\1", path)
    path = _ROOT.sub(lambda m: "" if m[1] in _OWN else f"{m[1]}.", path)
    path = re.sub(rf"(?:\.{_HELD})?\[['\"]?([\w.]+)['\"]?\]", r".\1", path)
    path = re.sub(rf"\b{_HELD}\.", "", path)
    path = path.replace("_orig_mod.", "").removesuffix("._orig_mod").removesuffix("_orig_mod")
    return path.strip(".")


def tensor_path(expression: str, prefix: str = "") -> str:
    """`model.norm.weight` for Dynamo's expression of a tensor that a module holds, else "".

    prefix: of the compiled function's own module. What that holds itself is `self.weight` there: a
    value of the graph may be called `weight`.
    """
    if not re.search(rf"\.{_HELD}\[", _DICT.sub(r".\1", expression)):
        return ""
    root = _ROOT.match(expression)
    path = normalised_path(encodable(expression))
    if prefix and root and root[1] in _OWN:
        return f"{prefix}.{path}"
    return path if "." in path else f"self.{path}"
