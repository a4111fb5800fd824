"""Runs a model once, eagerly, and lists the calls that fusions should cover."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tests.coverage.attentions import Attentions
from tests.coverage.call import Call
from tests.coverage.gated import Gated
from tests.coverage.norms import Norms
from tests.coverage.rotary import Rotary
from tests.coverage.whereabouts import Whereabouts


class Observer(TorchFunctionMode):
    """Shows every torch function call, with its result, to the listeners."""

    def __init__(self, *listeners: Any) -> None:
        super().__init__()
        self.listeners = listeners

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for listener in self.listeners:
            listener.seen(func, args, result)
        return result


class Entrances(Whereabouts):
    """Also tells the listeners of modules about entering and leaving."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self.norms: Norms | None = None
        self.gated: Gated | None = None

    def enter(self, module: torch.nn.Module, _inputs: Any) -> None:
        super().enter(module, _inputs)
        if self.norms is not None:
            self.norms.entered(module)

    def leave(self, module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        super().leave(module, _inputs, output)
        if self.gated is not None:
            self.gated.left(module, output)


@torch.no_grad()
def count(model: torch.nn.Module, inputs: Mapping[str, Any]) -> tuple[list[Call], Any]:
    """The calls of `model(**inputs)` in order, and its output."""
    calls: list[Call] = []
    where = Entrances(model)
    where.norms = norms = Norms(where, calls)
    where.gated = gated = Gated(where, calls)
    rotary = Rotary(where, calls)
    observer = Observer(norms, gated, Attentions(where, calls))
    with where.followed(), rotary.installed(model), observer:
        output = model(**inputs)
    return calls, output
