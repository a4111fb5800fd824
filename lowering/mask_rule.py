"""What a fusion does with a mask whose meaning was found: part of its declaration (see fusion)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class MaskFacts:
    """What a mask says, as arguments of an op.

    arguments:  those of its parts that have a name: numbers, flags, and tensors of the graph.
    whole:      they are all that it says; else the mask says more than they do.
    hides_with: what it adds to hide a score, NaN for several numbers; None for a boolean mask.
    never_empty: it is proven that every query sees a key.
    """

    arguments: Mapping[str, Any]
    whole: bool
    hides_with: float | None = None
    never_empty: bool = False


@dataclasses.dataclass(frozen=True)
class MaskRule:
    """What is done with a mask whose meaning was found.

    holes:   holes that hold a mask -> whether true in it hides a key.
    sizes:   op arguments -> numbers of queries and of keys.
    apply:   (op arguments, facts) -> op arguments in which the facts stand for the mask or beside
             it, or the same where they cannot.
    respell: (op arguments that `apply` has changed, those before) -> what takes the place of the
             original ops where no kernel runs, and why that is better; None where it is not.
    """

    holes: Mapping[str, bool]
    sizes: Callable[[Mapping[str, Any]], tuple[Any, Any]]
    apply: Callable[[Mapping[str, Any], MaskFacts], Mapping[str, Any]]
    respell: Callable[[Mapping[str, Any], Mapping[str, Any]], Respelling | None]


@dataclasses.dataclass(frozen=True)
class Respelling:
    """What takes the place of the original ops where no kernel runs.

    gain:     why it is better than what the model does.
    function: plain PyTorch that takes the op's arguments with the mask, as they were before
              MaskRule.apply; it runs on tensors and on what records a graph, so it has no control
              flow on values. None: the op itself, which has a CPU's code of its own (Op.on_cpu).
    """

    gain: str
    function: Callable[..., Any] | None = None
