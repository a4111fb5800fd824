"""What an abandoned attempt at a compile leaves behind, put back for the next one.

Inductor changes more than it returns: notes in the tracing context, bodies of regions that were
traced, sizes of data that wait for a name; and a graph that was cut short in an autocast region, in
no_grad or under a transform of torch.func leaves these in force. Guards that were added stay: they
hold for the inputs of this call.
Checked against torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch._guards import TracingContext

DEVICES = ("cpu", "cuda")


class CompileState:
    """The state where it is made."""

    def __init__(self) -> None:
        self._back: list[Callable[[], object]] = [self._modes()]
        context = TracingContext.try_get()
        if context is not None:
            self._keep(context)
            self._keep(context.guards_context)
            for known in getattr(context.hop_dispatch_set_cache, "hop_cache_map", {}).values():
                self._keep(known)
            environment = getattr(context.fake_mode, "shape_env", None)
            if environment is not None:
                self._keep(environment, "pending_fresh_unbacked_symbols")

    def restore(self) -> None:
        """Put it back."""
        for back in self._back:
            back()

    def _keep(self, owner: Any, *names: str) -> None:
        """Attributes of an object (these, else all), and what containers among them hold."""
        known = {n: v for n, v in vars(owner).items() if not names or n in names}
        inside = {name: contents(value) for name, value in known.items()}

        def back() -> None:
            for name, value in known.items():
                refill(value, inside[name])
                setattr(owner, name, value)

        self._back.append(back)

    @staticmethod
    def _modes() -> Callable[[], object]:
        """Grad mode, autocast, and the levels of torch.func."""
        grad = torch.is_grad_enabled()
        depth = torch._C._functorch.get_dynamic_layer_stack_depth()
        cache, nesting = torch.is_autocast_cache_enabled(), autocast_nesting()
        casts = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in DEVICES]

        def back() -> None:
            torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)
            torch._C._set_grad_enabled(grad)
            for device, enabled, dtype in casts:
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)
            torch.set_autocast_cache_enabled(cache)
            while autocast_nesting() > nesting:
                if torch.autocast_decrement_nesting() == 0:
                    torch.clear_autocast_cache()

        return back


def dispatch_kept() -> contextlib.AbstractContextManager[Any]:
    """What calls of ops go through is afterwards what it was before."""
    return torch._C._PreserveDispatchKeyGuard()


def autocast_nesting() -> int:
    """How many autocast regions are entered."""
    level = int(torch.autocast_increment_nesting()) - 1
    torch.autocast_decrement_nesting()
    return level


def contents(value: object) -> Any:
    """What a list or a dict holds, and the dicts and lists in that; None of anything else."""
    if type(value) is list:
        return list(value)
    if isinstance(value, dict):
        plain = (list, dict)
        return {k: copy.copy(v) if isinstance(v, plain) else v for k, v in value.items()}
    return None


def refill(value: Any, held: Any) -> None:
    """Make a container hold that again. It stays the same object: others know it."""
    if held is not None:
        value.clear()
        value.extend(held) if isinstance(value, list) else value.update(held)
