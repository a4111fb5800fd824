"""The module and inputs of a walk-through by name, made so that the same tour can be had again.

A fusion without a module of its own in tour_models, a user's or a new one, is its first spelling
that has an op, called on small inputs of the shapes that its holes declare.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tile_backend import tiny_model, tour_models
from tile_backend.errors import UnknownWalkthrough
from tile_backend.lowering.fusion import Fusion, Scalar, Spelling, Tensor
from tile_backend.lowering.trace import dimensions, sizes_for
from tile_backend.nearest import nearest
from tile_backend.registry import known_fusions
from tile_backend.targets import Request, Target

SIZES = {"B": 2, "K": 2, "S": 16, "L": 16, "N": 4, "D": 64, "E": 64, "_0": 2, "_1": 16}
GROUPS, UNRELATED = 2, 32
DTYPES = {"f32": torch.float32, "c64": torch.complex64, "bool": torch.bool, "i64": torch.int64}
NUMBERS: Mapping[type, Any] = {float: 0.5, int: -100, str: "mean"}
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Example:
    """A module with the inputs of one call."""

    name: str
    module: torch.nn.Module
    inputs: tuple[Any, ...]


class Spelled(torch.nn.Module):
    """A spelling of a fusion as a module: its tensors are inputs, its numbers are literals."""

    def __init__(
        self, spelling: Spelling, tensors: tuple[str, ...], fixed: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.spelling, self.tensors, self.fixed = spelling.function, tensors, dict(fixed)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.spelling(**dict(zip(self.tensors, inputs, strict=True)), **self.fixed)


def example(name: str, backward: bool = False) -> Example:
    """The example of a fusion, on a GPU where there is one; random numbers are untouched.

    backward: parameters want a gradient, so that the tour has a backward.
    Raises UnknownWalkthrough, naming the nearest.
    """
    known = {fusion.name: fusion for fusion in known_fusions()}
    if name not in known:
        raise UnknownWalkthrough(name=name, nearest=nearest(name, known), known=", ".join(known))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        made = tour_models.EXAMPLES.get(name)
        module, inputs = made() if made is not None else spelled(known[name])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = module.to(device, torch.bfloat16).requires_grad_(backward)
    return Example(name, module, tuple(tensor.to(device) for tensor in inputs))


def target(request: Request, backward: bool) -> Target:
    """What the command line names: a fusion, or a TARGET as every command takes it.

    Raises UnknownWalkthrough, or what `Request.resolve` raises.
    """
    name = request.target
    known = {fusion.name for fusion in known_fusions()}
    if name in known or not (":" in name or Path(name).is_dir() or is_model_type(name)):
        made = example(name, backward)
        return Target(name, made.module, made.inputs)
    found = request.resolve()
    if backward and isinstance(found.function, torch.nn.Module):
        found.function.train()
    return found


def is_model_type(name: str) -> bool:
    """Whether Transformers is installed and knows a language model of that name."""
    if importlib.util.find_spec("transformers") is None:
        return False
    return name in tiny_model.model_types()


def gradients(wanted: bool) -> Any:
    """Inside, autograd is on or off."""
    return torch.enable_grad() if wanted else torch.no_grad()


def spelled(fusion: Fusion) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The first spelling that has an op, with all of its operands."""
    spelling = fusion.supported[0]
    holes = {name: fusion.holes[name] for name in inspect.signature(spelling.function).parameters}
    sizes = sizes_for(spelling, SIZES, GROUPS, UNRELATED)
    fixed = {name: number(name, hole) for name, hole in holes.items() if isinstance(hole, Scalar)}
    tensors = {name: hole for name, hole in holes.items() if isinstance(hole, Tensor)}
    inputs = tuple(sample(hole, sizes) for hole in tensors.values())
    return Spelled(spelling, tuple(tensors), fixed), inputs


def number(name: str, hole: Scalar) -> Any:
    """A value for a number of the declaration."""
    return EPSILON if name == "eps" else NUMBERS[hole.type]


def sample(hole: Tensor, sizes: Mapping[str, int]) -> torch.Tensor:
    """Normal numbers, a full mask, labels of few classes."""
    shape = [sizes.get(name) or int(name) for name in dimensions(hole)]
    dtype = DTYPES.get(hole.dtype, torch.bfloat16)
    if dtype is torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype is torch.int64:
        return torch.randint(min(sizes.values()), shape)
    return torch.randn(shape, dtype=dtype)
