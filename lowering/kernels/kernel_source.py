"""The text that a kernel is compiled from: its function and all that is inlined into it.

Found as cuTile finds it, by following the names that a function's code looks up. An edit of a
helper of attention changes attention, not the norms; an edit of a plan changes no kernel, since
what a plan decides arrives as constants and hints. Text, not byte code: Python versions agree on
it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

LANGUAGE = "cuda"
"""The package whose functions are not followed: its version stands for them."""
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""In the text of an object: it differs from process to process."""


@functools.cache
def digest(function: Callable[..., Any]) -> str:
    """Of `parts`, in hexadecimal."""
    total = hashlib.sha256()
    for name, text in sorted(parts(function).items()):
        total.update(f"{name} {len(text)}\n{text}".encode())
    return total.hexdigest()


def parts(function: Callable[..., Any]) -> dict[str, str]:
    """Every function, class and constant that `function` is made of: qualified name -> text."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", function)]
    while waiting:
        name, value = waiting.pop()
        name = qualified(name, value)
        if name not in found:
            found[name] = text(value)
            if isinstance(value, types.FunctionType) and not in_language(value):
                waiting += looked_up(value)
    return found


def qualified(name: str, value: Any) -> str:
    """`package.module.function`; a constant keeps the name that its user looked up."""
    own = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{own}" if own else name


def text(value: Any) -> str:
    """The source of a function or class of ours, the value of a constant."""
    if not isinstance(value, (types.FunctionType, type)):
        return ADDRESS.sub("", repr(value))
    try:
        return "" if in_language(value) else inspect.getsource(value)
    except (OSError, TypeError):  # typed into an interpreter, where cuTile cannot read it either
        return ""


def in_language(value: Any) -> bool:
    """Whether a function, class or module belongs to cuTile."""
    module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return str(module).partition(".")[0] == LANGUAGE


def looked_up(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What the names in a function stand for; those of a module of ours are looked up in it."""
    names = set(names_in(function.__code__))
    free = function.__code__.co_freevars
    cells = zip(free, function.__closure__ or (), strict=True)
    scope = {**function.__globals__, **{name: cell.cell_contents for name, cell in cells}}
    for name in sorted(scope.keys() & {*names, *free}):
        value = scope[name]
        if not isinstance(value, types.ModuleType):
            yield f"{function.__module__}.{name}", value
        elif not in_language(value):
            for attribute in sorted(names & vars(value).keys()):
                if not isinstance(vars(value)[attribute], types.ModuleType):
                    yield f"{value.__name__}.{attribute}", vars(value)[attribute]


def names_in(code: types.CodeType) -> Iterator[str]:
    """Every global and attribute that the code names, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)
