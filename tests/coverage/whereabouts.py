"""Which module is running: a stack of dotted paths kept by global forward hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)


class Whereabouts:
    """`path` and `owner` of the innermost running module of one model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self.stack: list[torch.nn.Module] = []

    @property
    def path(self) -> str:
        return self.names.get(self.stack[-1], "") if self.stack else ""

    @property
    def owner(self) -> str:
        return type(self.stack[-1]).__name__ if self.stack else ""

    def enter(self, module: torch.nn.Module, _inputs: Any) -> None:
        self.stack.append(module)

    def leave(self, module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        while self.stack and self.stack.pop() is not module:
            pass

    @contextlib.contextmanager
    def followed(self) -> Iterator[Whereabouts]:
        handles = (
            register_module_forward_pre_hook(self.enter),
            register_module_forward_hook(self.leave, always_call=True),
        )
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
