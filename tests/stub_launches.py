"""Launching on the stub of the CUDA driver, and reading what it was given."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch

from tests.stub_driver import Driver, Launch
from tile_backend.lowering import launch_abi1
from tile_backend.lowering.kernels.signature import parameter_annotations

BF16 = torch.bfloat16


def norm(x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-6) -> torch.Tensor:
    """One rms_norm, as generated code calls it."""
    weight = torch.ones(x.shape[-1], dtype=x.dtype) if weight is None else weight
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    found = launch_abi1.rms_norm(x, weight, eps, 0.0, "once", out=out)
    assert found is out
    return out


def launched(driver: Driver, function: Any, words: int = 0) -> tuple[Any, list[Launch]]:
    """What the function gives, and its launches with so many recorded parameters each."""
    before = driver.launched
    with driver.recording(words):
        result = function()
    return result, driver.since(before)


def words_of(parameters: Sequence[Any]) -> list[int]:
    """What the launcher passes: pointer, sizes and strides of arrays, then numbers; 64 bits each.

    Sizes, strides and int32 numbers keep their lower half, and floats their bits.
    """
    words: list[int] = []
    for value in parameters:
        if isinstance(value, torch.Tensor):
            words += [value.data_ptr(), *value.shape, *value.stride()]
        elif isinstance(value, float):
            words.append(struct.unpack("i", struct.pack("f", value))[0])
        else:
            words.append(value)
    return words


def passed_by(plan: Any) -> list[Any]:
    """The arguments of a planned launch that are no Constants."""
    annotations = parameter_annotations(plan.kernel)
    return [a for a, known in zip(plan.args, annotations, strict=True) if not known.constant]


def same_words(launch: Launch, parameters: Sequence[Any]) -> bool:
    """Whether a launch got these arguments; Constants are not passed, and indices have 32 bits."""
    expected = words_of(parameters)
    pointers = {v.data_ptr() for v in parameters if isinstance(v, torch.Tensor)}
    whole, low = launch.words(len(expected)), launch.words(len(expected), 32)
    return [w if w in pointers else half for w, half in zip(whole, low, strict=True)] == expected
