"""What stands in the place of logits that were not computed, and says so when it is used.

With `tilegym.drop_logits` the loss of a language model is computed without the logits of all
tokens, and the model returns a `DroppedLogits` in their place. It can be put into a ModelOutput,
passed on, copied, pickled, printed and detached; anything else raises `LogitsDropped`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tile_backend.errors import LogitsDropped

REFUSED = (
    *("len", "iter", "getitem", "setitem", "contains", "bool", "int", "float", "complex", "index"),
    *("neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "call", "round"),
    *("array", "array_ufunc", "dlpack", "dlpack_device", "next", "reversed"),
    *("iadd", "isub", "imul", "itruediv", "imatmul", "enter", "exit"),
    *(
        f"{side}{name}"
        for name in (
            "add",
            "sub",
            "mul",
            "truediv",
            "floordiv",
            "mod",
            "pow",
            "matmul",
            "and",
            "or",
        )
        for side in ("", "r")
    ),
)
"""Special methods, without their underscores."""


class DroppedLogits:
    """The logits that a compiled model would have returned."""

    __slots__ = ("__weakref__",)
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "DroppedLogits(not computed: tilegym.drop_logits=True)"

    def detach(self) -> DroppedLogits:
        """Itself: there is no graph to leave."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise LogitsDropped(use=f"`.{name}`")

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        raise LogitsDropped(use=f"`{getattr(function, '__name__', function)}`")


def refusing(name: str) -> Callable[..., Any]:
    """A special method that raises."""

    def method(self: DroppedLogits, *_: Any, **__: Any) -> Any:
        raise LogitsDropped(use=f"`{name}`")

    return method


for _name in REFUSED:
    setattr(DroppedLogits, f"__{_name}__", refusing(f"__{_name}__"))


def returning(compiled: Callable[..., Any], places: Sequence[int]) -> Callable[..., Any]:
    """`compiled` with a DroppedLogits at each of these places of its results."""
    if not places:
        return compiled

    def call(*args: Any, **kwargs: Any) -> Any:
        results = list(compiled(*args, **kwargs))
        for place in sorted(places):
            results.insert(place, DroppedLogits())
        return tuple(results)

    if getattr(compiled, "_boxed_call", False):
        call._boxed_call = True  # type: ignore[attr-defined]
    return call
