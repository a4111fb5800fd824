"""Asking about sizes adds no guard: what we look at is compiled for as many sizes as without us.

A guard comes from any question about a symbol that the program's own guards leave open:
`int(size)`, `size == 16`, a branch in the function by which torch works out the shape of a result.
Inside `none_added` such a question raises `NewGuard` and changes nothing. The site at hand is then
declined, in the words of the error. What the guards say already may be asked.

torch takes `NewGuard` for a size that depends on data, for which its own code has general answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import sympy
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv


class NewGuard(GuardOnDataDependentSymNode):
    """The program's guards do not say what a symbol is, or whether a condition on symbols holds."""

    def __init__(self, question: sympy.Basic, answer: sympy.Basic) -> None:
        is_condition = isinstance(answer, sympy.logic.boolalg.BooleanAtom)
        asked = f"whether {question}" if is_condition else f"what {question} is"
        super().__init__(question, f"it would have to know {asked}, which may change between calls")

    @property
    def text(self) -> str:
        """The sentence of a reason."""
        return str(self.args[0])


def environment_of(graph: fx.Graph) -> ShapeEnv | None:
    """Of the symbols in a graph's fake values; None where it has none."""
    for node in graph.nodes:
        known = node.meta.get("example_value", node.meta.get("val"))
        if isinstance(known, FakeTensor):
            return known.fake_mode.shape_env
        if hasattr(known, "node"):
            return getattr(known.node, "shape_env", None)
    return None


@contextlib.contextmanager
def none_added(graph: fx.Graph) -> Iterator[None]:
    """Inside, a question that would add a guard to the program of this graph raises NewGuard."""
    with _refusing(environment_of(graph)):
        yield


@contextlib.contextmanager
def _refusing(environment: ShapeEnv | None) -> Iterator[None]:
    if environment is None:
        yield
        return

    def refuse(expression: sympy.Basic, answer: sympy.Basic) -> None:
        if not environment._suppress_guards_tls():  # there torch adds none, and relies on hints
            raise NewGuard(expression, answer)

    before = vars(environment).get("_check_frozen")
    vars(environment)["_check_frozen"] = refuse
    try:
        yield
    finally:
        if before is None:
            del vars(environment)["_check_frozen"]
        else:
            vars(environment)["_check_frozen"] = before


def answer(question: Any) -> bool | None:
    """What the guards say of a symbolic condition; None where they leave it open."""
    try:
        with _refusing(question.node.shape_env):
            return bool(question)
    except GuardOnDataDependentSymNode:
        return None
