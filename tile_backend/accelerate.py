"""Lets `accelerate`, and with it Transformers' Trainer, take "tilegym" as a backend's name.

    from tile_backend import accelerate
    accelerate.register()
    TrainingArguments(..., torch_compile=True, torch_compile_backend="tilegym")

torch finds backends by entry point. accelerate asks a closed enum first, whose documented hook for
unknown values (`_missing_`) is what `register` sets. A model compiled beforehand needs none of it.
"""

from __future__ import annotations

import functools
from typing import Any

NAME = "TILEGYM"


def register() -> None:
    """Once per process, before TrainingArguments or Accelerator are made; again does nothing.

    Raises ImportError where accelerate is not installed.
    """
    from accelerate.utils import DynamoBackend

    if NAME in DynamoBackend:  # known: by us, or by an accelerate of a later version
        return
    inherited = DynamoBackend._missing_

    def missing(cls: Any, value: object) -> Any:
        return _member(cls) if value == NAME else inherited(value)

    DynamoBackend._missing_ = classmethod(missing)


@functools.cache
def _member(enumeration: Any) -> Any:
    """A value of the enum; not in its list, which accelerate's own questions are made from."""
    member = str.__new__(enumeration, NAME)
    member._name_ = member._value_ = NAME
    return member
