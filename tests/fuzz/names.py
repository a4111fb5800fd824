"""What the text of a program may name beside its own values, and what it means in plain PyTorch.

Two custom ops write to an argument: one through the schema of torch.library, one as a function that
torch.library.custom_op was told of. Spellings of the fusions go by `fusion__spelling`.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tests.core_material import spellings

WORD = re.compile(r"[A-Za-z_]\w*")
NAMESPACE = "tilegym_fuzz"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
LIBRARY.define("store(Tensor(a!) cache, Tensor new) -> ()")


@torch.library.impl(LIBRARY, "store", "CompositeExplicitAutograd")
def store(cache: torch.Tensor, new: torch.Tensor) -> None:
    cache.copy_(new)


@torch.library.custom_op(f"{NAMESPACE}::scaled_by", mutates_args=("target",))
def scaled_by(target: torch.Tensor, number: float) -> None:
    target.mul_(number)


@scaled_by.register_fake
def _(target: torch.Tensor, number: float) -> None:
    return None


UNBOUND = re.compile(r"torch\.Tensor\.(\w+)\((\w+), ")
SPECIAL_NAME = re.compile(r"\b(\w+)\.(__\w+__)\(")


def traceable(text: str) -> str:
    """The same calls in words by which a proxy sees what Dynamo sees."""
    text = UNBOUND.sub(r"\2.\1(", text).replace("torch.nn.functional.", "F.")
    return SPECIAL_NAME.sub(r"\1.called('\2', ", text)


def words(text: str) -> list[str]:
    return WORD.findall(text)


def chosen(condition: Any, true: Callable[..., Any], false: Callable[..., Any], given: Any) -> Any:
    """torch.cond without a compile."""
    return true(*given) if condition else false(*given)


def title(fusion: str, spelling: str) -> str:
    return f"{fusion}__{re.sub(r'[^a-zA-Z0-9_]', '_', spelling)}"


@functools.cache
def spelled() -> Mapping[str, Callable[..., Any]]:
    """Every spelling of every fusion by its name."""
    return {title(f.name, s.title): s.function for f, s in spellings()}


@functools.cache
def meanings() -> Mapping[str, Any]:
    """Of all names, where nothing is compiled."""
    return {
        "F": F,
        "autocast": torch.autocast,
        "checkpoint": checkpoint,
        "cond": chosen,
        "math": math,
        "operator": operator,
        "torch": torch,
        **spelled(),
    }
