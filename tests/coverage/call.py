"""One call of an eager run that a fusion should cover, and where it was made."""

from __future__ import annotations

import dataclasses
import enum
import sys
from pathlib import Path
from types import FrameType

import torch


class Category(enum.StrEnum):
    """What is counted. Attention written out by hand is counted apart from SDPA calls."""

    NORM = "norm"
    GATED_MLP = "gated_mlp"
    ROTARY = "rotary"
    SDPA = "sdpa"
    EAGER_ATTENTION = "eager_attention"


@dataclasses.dataclass(frozen=True)
class Call:
    """module: dotted path from the model; owner: its class; source: "file:line" of the call.

    units: tensors rotated for rotary (q and k of one call are two), else 1.
    """

    category: Category
    module: str
    owner: str
    source: str
    units: int = 1


TORCH = str(Path(torch.__file__).parent)
HERE = str(Path(__file__).parent)


def is_users(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith((TORCH, HERE, "<"))


def caller() -> str:
    """The innermost frame in modelling code as "file:line", else the innermost user frame."""
    found = ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_users(frame):
            name = Path(frame.f_code.co_filename).name
            place = f"{name}:{frame.f_lineno}"
            if name.startswith("modeling_"):
                return place
            found = found or place
        frame = frame.f_back
    return found
