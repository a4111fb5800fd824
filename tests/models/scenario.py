"""One way to use a model: precision, kind of call, what is compiled, static or dynamic shapes."""

from __future__ import annotations

import dataclasses
import itertools

import torch

from tests.models.inputs import INPUTS


class Setting:
    """The parts that every scenario has; a scenario is a dataclass of words.

    dtype: of the parameters, by name. shapes: "static" or "dynamic".
    """

    dtype: str
    shapes: str

    @property
    def name(self) -> str:
        """Its words in order, "bfloat16 decode model static"."""
        return " ".join(vars(self).values())

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def dynamic(self) -> bool | None:
        """The argument of torch.compile: "static" is its default, static until a size changes."""
        return True if self.shapes == "dynamic" else None


@dataclasses.dataclass(frozen=True)
class Scenario(Setting):
    """call: a name of `inputs.INPUTS`. scope: "model", or "layers" (each compiled on its own)."""

    dtype: str
    call: str
    scope: str
    shapes: str


ALL = tuple(
    Scenario(*parts)
    for parts in itertools.product(
        ("float32", "bfloat16"), INPUTS, ("model", "layers"), ("static", "dynamic")
    )
)
CHOSEN = tuple(
    Scenario(*words.split())
    for words in (
        "float32 prefill model static",
        "float32 padded model dynamic",
        "bfloat16 decode model static",
        "bfloat16 prefill layers dynamic",
    )
)
"""What `make test` runs: every value of every part at least once."""
