"""What a compiled program hands to the check of one result: a text, since ops take no objects."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import torch


@dataclasses.dataclass(frozen=True)
class Check:
    """What was asked for (tilegym.verify="always").

    raises: a result outside its budget is an error. folder: where such a one is saved, "" for the
    usual place. site: "model.norm rms_norm modeling_llama.py:66". runs: the overload of the ops.
    """

    raises: bool = False
    folder: str = ""
    site: str = ""
    runs: str = "default"

    def to_text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def of(cls, text: str) -> Check:
        return cls(**json.loads(text))


@dataclasses.dataclass(frozen=True)
class Request:
    """One call of an op, or of its backward.

    tensors: names of the op's arguments whose values are given, then a number for each of its
    results whose gradient is given. numbers: its other arguments. gradients: the names of the
    arguments whose gradients are to be checked; () means the results of the op.
    """

    check: Check
    op: str
    tensors: tuple[str | int, ...]
    numbers: Mapping[str, Any]
    gradients: tuple[str, ...] = ()

    @property
    def part(self) -> Literal["forward", "backward"]:
        return "backward" if self.gradients else "forward"

    def to_text(self) -> str:
        numbers = {name: encoded(number) for name, number in self.numbers.items()}
        return json.dumps(dataclasses.asdict(dataclasses.replace(self, numbers=numbers)))

    @classmethod
    def of(cls, text: str) -> Request:
        known = json.loads(text)
        return cls(
            Check(**known["check"]),
            known["op"],
            tuple(known["tensors"]),
            {name: decoded(number) for name, number in known["numbers"].items()},
            tuple(known["gradients"]),
        )


def encoded(number: Any) -> Any:
    """JSON has no dtypes, and no symbols: a number of a call is known where it is compiled."""
    if isinstance(number, (torch.SymInt, torch.SymFloat)):
        return int(number) if isinstance(number, torch.SymInt) else float(number)
    return {"dtype": str(number)[6:]} if isinstance(number, torch.dtype) else number


def decoded(number: Any) -> Any:
    """Raises ValueError for what `encoded` does not give."""
    found = getattr(torch, str(number["dtype"]), None) if isinstance(number, dict) else number
    if not isinstance(found, (torch.dtype, bool, int, float, str, type(None))):
        raise ValueError(f"{number!r} is no number of a call")
    return found
