"""Calls of functions named after rotary embeddings, by wrapping them in the modelling modules.

A wrapped function that calls another one is counted once, at the outside; the unit is a tensor, so
that q and k together weigh as much as q and k one after the other.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.coverage.call import Call, Category, caller
from tests.coverage.whereabouts import Whereabouts

NAMED = re.compile(r"^_?(vision_)?apply_\w*(rotary|rope)\w*$")


def owners(model: torch.nn.Module) -> Iterator[Any]:
    """Modelling modules of the model's classes, and the classes themselves (static methods)."""
    classes = {type(module) for module in model.modules()}
    names = {c.__module__ for c in classes if "modeling" in c.__module__}
    yield from (sys.modules[name] for name in sorted(names))
    yield from (c for c in classes if c.__module__ in names)


class Rotary:
    def __init__(self, where: Whereabouts, calls: list[Call]) -> None:
        self.where, self.calls, self.depth = where, calls, 0

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            try:
                result = function(*args, **kwargs)
            finally:
                self.depth -= 1
            if self.depth == 0:
                units = len(result) if isinstance(result, tuple) else 1
                where = self.where
                self.calls.append(Call(Category.ROTARY, where.path, where.owner, caller(), units))
            return result

        return counted

    @contextlib.contextmanager
    def installed(self, model: torch.nn.Module) -> Iterator[None]:
        with contextlib.ExitStack() as undo:
            for owner in owners(model):
                for name, value in list(vars(owner).items()):
                    static = isinstance(value, staticmethod)
                    function = value.__func__ if static else value
                    if not NAMED.match(name) or not inspect.isfunction(function):
                        continue
                    if inspect.isclass(owner) and not static:
                        continue
                    wrapper: Any = self.wrapped(function)
                    setattr(owner, name, staticmethod(wrapper) if static else wrapper)
                    undo.callback(setattr, owner, name, value)
            yield
