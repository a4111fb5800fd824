"""A node of a graph as a Python statement: `mul_1 = to_1 * rsqrt`.

`statement` always gives text that parses. `runs` says whether it also runs, given its inputs and
`import operator, torch`: a function that no module holds under a name does not. What is only shown
(paths, titles, a user's code) goes through `quoted`, `comment` or `docstring`, since a name of a
file or of a module may hold any sign.
"""

from __future__ import annotations

import functools
import json
import keyword
import math
import operator
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

INFIX = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/",
    operator.floordiv: "//", operator.mod: "%", operator.pow: "**", operator.matmul: "@",
    operator.and_: "&", operator.or_: "|", operator.xor: "^", operator.lt: "<", operator.le: "<=",
    operator.gt: ">", operator.ge: ">=", operator.eq: "==", operator.ne: "!=",
}  # fmt: skip
PREFIX = {operator.neg: "-", operator.invert: "~", operator.pos: "+"}
NAMESPACES = (
    ("torch.nn.functional", F), ("torch", torch), ("torch.special", torch.special),
    ("torch.linalg", torch.linalg), ("operator", operator),
)  # fmt: skip
"""Where a function is looked for, in the order in which a person would name it."""
WORDS = (torch.dtype, torch.memory_format, torch.layout)
"""What torch prints as the name that it has: torch.float32, torch.strided."""
Name = Callable[[fx.Node], str]


def statement(node: fx.Node, name: Name) -> str:
    """name: what the value of a node is called, an expression."""
    return f"{node.name} = {expression(node, name)}"


def expression(node: fx.Node, name: Name) -> str:
    """The right side."""
    if node.op == "get_attr":
        return f"self[{str(node.target)!r}]"
    words = [literal(argument, name) for argument in node.args]
    if node.target is operator.getitem:
        return f"{words[0]}[{index(node.args[1], name)}]"
    if node.target is operator.setitem:
        return f"operator.setitem({', '.join(words)})"
    if node.op == "call_function" and len(words) == 2 and node.target in INFIX:
        left = f"({words[0]})" if words[0].startswith("-") else words[0]
        return f"{left} {INFIX[node.target]} {words[1]}"
    if node.op == "call_function" and len(words) == 1 and node.target in PREFIX:
        return f"{PREFIX[node.target]}{words[0]}"
    given = words + [f"{key}={literal(value, name)}" for key, value in node.kwargs.items()]
    if node.op == "call_method":
        return f"{words[0]}.{node.target}({', '.join(given[1:])})"
    return f"{function_name(node.target)[0]}({', '.join(given)})"


def runs(node: fx.Node) -> bool:
    """Whether the statement means the node's call."""
    if node.op == "call_method":
        known = True
    else:
        known = node.op == "call_function" and function_name(node.target)[1]
    given = [*node.args, *node.kwargs.values()]
    return known and all(is_literal(argument) for argument in given)


@functools.cache
def function_name(target: Any) -> tuple[str, bool]:
    """A dotted name, and whether it leads back to the function in a module of torch or Python."""
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return f"torch.ops.{target}".removesuffix(".default"), True
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"torch.ops.higher_order.{target.name()}", False  # takes graphs
    word = str(getattr(target, "__name__", type(target).__name__))
    for path, namespace in NAMESPACES:
        if getattr(namespace, word, None) is target:
            return f"{path}.{word}", True
    module = str(getattr(target, "__module__", None) or "")
    found: Any = sys.modules.get(module)
    for part in str(getattr(target, "__qualname__", word)).split("."):
        found = getattr(found, part, None)
    path = f"{module}.{getattr(target, '__qualname__', word)}".strip(".")
    readable = path if all(part.isidentifier() for part in path.split(".")) else identifier(word)
    return readable, found is target and module.split(".")[0] == "torch"


def literal(argument: Any, name: Name) -> str:
    """An argument as Python source."""
    if isinstance(argument, fx.Node):
        return name(argument)
    if isinstance(argument, (list, tuple)):
        inner = ", ".join(literal(part, name) for part in argument)
        if isinstance(argument, list):
            return f"[{inner}]"
        return f"({inner},)" if len(argument) == 1 else f"({inner})"
    if isinstance(argument, dict):
        return f"{{{', '.join(f'{k!r}: {literal(v, name)}' for k, v in argument.items())}}}"
    if isinstance(argument, slice):
        parts = (argument.start, argument.stop, argument.step)
        return f"slice({', '.join(literal(part, name) for part in parts)})"
    return constant(argument)


def constant(argument: Any) -> str:
    """What holds no node."""
    if isinstance(argument, WORDS):
        return str(argument)
    if isinstance(argument, torch.device):
        return f"torch.device({str(argument)!r})"
    if isinstance(argument, float) and not math.isfinite(argument):
        return f"float({str(argument)!r})"
    if argument is Ellipsis:
        return "..."
    return repr(argument) if is_literal(argument) else repr(str(argument))


def is_literal(argument: Any) -> bool:
    """Whether its text gives it back."""
    if isinstance(argument, (list, tuple)):
        return all(map(is_literal, argument))
    if isinstance(argument, dict):
        return all(map(is_literal, argument.values()))
    if isinstance(argument, slice):
        return all(map(is_literal, (argument.start, argument.stop, argument.step)))
    plain = (fx.Node, bool, int, float, complex, str, type(None), type(...), torch.device)
    return isinstance(argument, (*plain, *WORDS))


def index(argument: Any, name: Name) -> str:
    """Inside of x[...]."""
    parts = argument if isinstance(argument, tuple) and argument else (argument,)
    words = [span(part, name) if isinstance(part, slice) else literal(part, name) for part in parts]
    comma = "," if isinstance(argument, tuple) and len(argument) == 1 else ""
    return ", ".join(words) + comma


def span(part: slice, name: Name) -> str:
    """`1:`, `::2`"""
    words = ["" if p is None else literal(p, name) for p in (part.start, part.stop, part.step)]
    return ":".join(words[:2] if part.step is None else words)


def identifier(text: str) -> str:
    """The nearest name that Python takes, in the form in which Python compares names."""
    plain = unicodedata.normalize("NFKC", text)
    made = "".join(c if f"_{c}".isidentifier() else "_" for c in plain) or "value"
    return made if made.isidentifier() and not keyword.iskeyword(made) else f"_{made}"


def quoted(text: str) -> str:
    """A string as Python source."""
    return json.dumps(text) if text.isascii() else repr(text)


def comment(text: str) -> str:
    """Fit for what stands behind a #: one line, and signs that a file can hold."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def docstring(text: str) -> str:
    """Fit for the inside of three quotes, where a backslash or a quote would mean something."""
    return comment(text.replace("\\", "/").replace('"', "'"))
