"""A kernel's launch as a function of shapes, strides, dtypes and numbers, worked out once for each.

`plan` of a kernel file takes longer than a launch, and a model repeats its launches every step. So
the plan is made on meta tensors, which have no storage in common, and remembered as a recipe: which
argument each kernel parameter views, and how. Two arguments that share memory in one call, as q and
k of a packed projection do, can then not be mistaken for each other in the next.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tile_backend.lowering import launch_configuration, raw_tensors

if TYPE_CHECKING:
    from tile_backend.lowering.kernels.configuration import Choose

PLANS_KEPT = 4096
"""Per process; a model with dynamic sizes makes one for each size it meets."""


class Described(NamedTuple):
    """What a plan may look at of one tensor. A tuple, since each launch hashes it."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def on_meta(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


class View(NamedTuple):
    """A kernel parameter: tensor number `source` of the op, as it is or seen in another way.

    offset: elements between the first element of the source and that of the view.
    """

    source: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    same: bool

    def of(self, tensors: Sequence[Any]) -> torch.Tensor:
        tensor: torch.Tensor = tensors[self.source]
        if self.same:
            return tensor
        if tensor.dtype != self.dtype:
            tensor = tensor.view(self.dtype)
        return raw_tensors.view(tensor, self.shape, self.stride, self.offset)


class Recipe(NamedTuple):
    """`parameters` are Views, or numbers that are passed as they are.

    measured: the stored configuration that was taken; None: the plan's own.
    """

    kernel: Any
    grid: tuple[int, int, int]
    parameters: tuple[Any, ...]
    measured: launch_configuration.Measured | None = None

    def arguments(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The kernel's arguments; `values` are the op's, then its outputs."""
        return tuple(p.of(values) if isinstance(p, View) else p for p in self.parameters)


def describe(values: Sequence[Any]) -> tuple[Any, ...]:
    """The key of a plan: tensors by what a plan may look at, everything else by value."""
    return tuple(
        Described(v.shape, v.stride(), v.dtype) if isinstance(v, torch.Tensor) else v
        for v in values
    )


class NoKernelError(LookupError):
    """No kernel file for an op."""


@functools.lru_cache(maxsize=PLANS_KEPT)
def recipe(
    name: str, names: tuple[str, ...], described: tuple[Any, ...], arch: str
) -> Recipe | None:
    """The launch of op `name`, or None where there is nothing to compute.

    names:     the op's arguments; `described` has their descriptions, then those of the outputs.
    Raises what `plan` raises, and NoKernelError.
    """
    plan = planner(name)
    values = on_meta(described)
    arguments, outputs = dict(zip(names, values, strict=False)), tuple(values[len(names) :])
    launch, measured = launch_configuration.planned(name, plan, arguments, outputs, arch)
    return _recipe(name, launch, values, measured)


def made(
    name: str, names: tuple[str, ...], described: tuple[Any, ...], arch: str, choose: Choose
) -> Recipe | None:
    """The same of a launch whose configuration is chosen here; nothing is remembered."""
    plan = planner(name)
    values = on_meta(described)
    arguments, outputs = dict(zip(names, values, strict=False)), tuple(values[len(names) :])
    choice = (choose,) if launch_configuration.has_choice(plan) else ()
    return _recipe(name, plan(arguments, outputs, arch, *choice), values, None)


def planned(name: str, names: tuple[str, ...], described: tuple[Any, ...], arch: str) -> Recipe:
    """The same as the plan has it, whatever was measured. There is something to compute."""
    from tile_backend.lowering.kernels.configuration import as_planned

    found = made(name, names, described, arch, as_planned)
    assert found is not None, f"{name} computes nothing"
    return found


def on_meta(described: tuple[Any, ...]) -> list[Any]:
    """The values that were described, tensors without data."""
    return [d.on_meta() if isinstance(d, Described) else d for d in described]


def _recipe(
    name: str, launch: Any, values: Sequence[Any], measured: launch_configuration.Measured | None
) -> Recipe | None:
    if launch is None:
        return None
    storages = {
        value.untyped_storage()._cdata: index
        for index, value in enumerate(values)
        if isinstance(value, torch.Tensor)
    }
    parameters = (
        _view(name, parameter, values, storages)
        if isinstance(parameter, torch.Tensor)
        else parameter
        for parameter in launch.args
    )
    return Recipe(launch.kernel, launch.grid, tuple(parameters), measured)


def reject(measured: launch_configuration.Measured, reason: str) -> None:
    """From now on launches are planned without that configuration, which is said once."""
    launch_configuration.reject(measured, reason)
    recipe.cache_clear()


def planner(name: str) -> Callable[..., Any]:
    """`plan` of an op's kernel file. Raises NoKernelError."""
    module = f"tile_backend.lowering.kernels.{name}"
    try:
        plan: Callable[..., Any] = importlib.import_module(module).plan
    except ModuleNotFoundError as error:
        if error.name == module:
            raise NoKernelError(f"no cuTile kernel is written for {name}") from None
        raise
    return plan


def _view(
    name: str, parameter: torch.Tensor, values: Sequence[Any], storages: dict[int, int]
) -> View:
    source = storages.get(parameter.untyped_storage()._cdata)
    if source is None or values[source].element_size() != parameter.element_size():
        raise RuntimeError(
            f"the kernel of tilegym.{name} is given a tensor that is no view of the op's arguments"
            " and outputs: plan() must neither copy nor allocate"
        )
    value = values[source]
    (seen,), (whole,) = describe([parameter]), describe([value])
    offset = int(parameter.storage_offset())
    shape = tuple(seen.shape)  # not a torch.Size, see raw_tensors.view
    return View(source, shape, seen.stride, seen.dtype, offset, seen == whole and not offset)
