"""From an op's arguments to `ct.launch`, with everything worked out once per kind of call.

A kind of call is what a plan may look at: shapes, strides, dtypes, devices and numbers. The first
call of a kind makes a recipe (launch_recipe) and from it a function that recognises the kind in
one check and launches; a step of a model then costs little more than the launches themselves.

A launch goes to the current stream of the device that has the tensors, which is made current if it
is not. It allocates nothing and waits for nothing, so it can be captured into a CUDA graph.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tile_backend.lowering import cuda_state, launch_recipe
from tile_backend.lowering.launch_arguments import Picker, arguments, picker
from tile_backend.lowering.launch_recipe import Recipe
from tile_backend.lowering.raw_tensors import same_kind

Attempt = Callable[[tuple[Any, ...]], bool | None]
"""Given an op's arguments and outputs: True, it launched; False, the reference has to run; None,
this is a call of another kind."""

KINDS = 8
"""Kinds of call that are tried in turn, newest first, before the recipe is looked up again."""
INSTALL = "install what is missing with: pip install 'tile-backend[kernels]'"
CANNOT_LOAD = "Failed to load CUDA library"
"""How cuda-tile's RuntimeError begins when the driver takes a kernel's code for foreign."""


class KernelFallbackWarning(RuntimeWarning):
    """A kernel could not run, and the op's PyTorch reference ran in its place."""


class Calls:
    """The calls of one op.

    names: of its arguments, in schema order.
    """

    def __init__(self, op: str, names: tuple[str, ...]) -> None:
        self.op = op
        self.names = names
        self.recent: tuple[Attempt, ...] = ()

    def launched(self, values: tuple[Any, ...]) -> bool:
        """Launch the kernel on arguments and outputs; False where the reference has to run."""
        for attempt in self.recent:
            if (ran := attempt(values)) is not None:
                return ran
        attempt, ran = self._first(values)
        self.recent = (attempt, *self.recent[: KINDS - 1])
        return ran

    def _first(self, values: tuple[Any, ...]) -> tuple[Attempt, bool]:
        """Launch a call of a new kind, or find that it cannot be."""
        device = gpu_of(next(value for value in values if isinstance(value, torch.Tensor)))
        if device is None:
            return _settled(values, False), False
        tools = _tools()
        if isinstance(tools, str):
            return self._refused(values, tools)
        launch, refusals = tools
        described = launch_recipe.describe(values)
        arch = cuda_state.architecture(device)
        try:
            recipe = launch_recipe.recipe(self.op, self.names, described, arch)
            if recipe is None:
                return _settled(values, True), True
            attempt = _launcher(launch, recipe, values, device)
            attempt(values)
        except refusals as refusal:
            return self._refused(values, str(refusal))
        except RuntimeError as error:
            if not str(error).startswith(CANNOT_LOAD):
                raise
            return self._refused(values, f"{error}; a newer NVIDIA driver may take it")
        return attempt, True

    def _refused(self, values: tuple[Any, ...], reason: str) -> tuple[Attempt, bool]:
        _warn_once(self.op, reason)
        return _settled(values, False), False


def calls_of(op: str, names: tuple[str, ...]) -> Calls:
    """The one object of an op."""
    found = _calls.get(op)
    if found is None:
        found = _calls[op] = Calls(op, names)
    return found


_calls: dict[str, Calls] = {}


def gpu_of(tensor: torch.Tensor) -> int | None:
    """The index of its CUDA device; None where no kernel runs."""
    return tensor.device.index if tensor.is_cuda else None


@functools.cache
def _tools() -> tuple[Callable[..., None], tuple[type[Exception], ...]] | str:
    """`ct.launch` and the errors after which the reference runs, or what is missing."""
    try:
        tile = importlib.import_module("cuda.tile")
    except ImportError as error:
        return f"cuda-tile cannot be imported ({error}); {INSTALL}"
    limit = importlib.import_module("tile_backend.lowering.kernels.launch_plan").KernelLimit
    unbuilt = importlib.import_module("tile_backend.lowering.kernels.build_error").BuildError
    return tile.launch, (limit, unbuilt, launch_recipe.NoKernelError, tile.TileError)


@functools.cache
def _warn_once(op: str, reason: str) -> None:
    warnings.warn(
        f"torch.ops.tilegym.{op} runs its PyTorch reference, not a kernel: {reason}",
        KernelFallbackWarning,
        stacklevel=2,
    )


def _settled(values: tuple[Any, ...], ran: bool) -> Attempt:
    """There is nothing to launch for calls of this kind: no element, or no kernel."""
    tensors, rest = _parts(values)
    same, expected = same_kind(tensors(values)), rest(values)

    def attempt(values: tuple[Any, ...]) -> bool | None:
        return ran if same(*tensors(values)) and rest(values) == expected else None

    return attempt


def _launcher(
    launch: Callable[..., None], recipe: Recipe, values: tuple[Any, ...], device: int
) -> Attempt:
    """What launches calls of this kind. Everything it needs is a local: it runs at every step."""
    tensors, rest = _parts(values)
    same, expected = same_kind(tensors(values)), rest(values)
    (arrays, numbers), kernel, grid = arguments(recipe), recipe.kernel, recipe.grid
    current_device, raw_stream = cuda_state.current_device, cuda_state.raw_stream

    def attempt(values: tuple[Any, ...]) -> bool | None:
        if not same(*tensors(values)) or rest(values) != expected:
            return None
        if current_device() == device:
            launch(raw_stream(device), grid, kernel, arrays(values) + numbers)
        else:
            with cuda_state.on(device):
                launch(raw_stream(device), grid, kernel, arrays(values) + numbers)
        return True

    return attempt


def _parts(values: tuple[Any, ...]) -> tuple[Picker, Picker]:
    """What takes the tensors out of values like these, and what takes the rest."""
    is_tensor = [isinstance(value, torch.Tensor) for value in values]
    return picker(i for i, yes in enumerate(is_tensor) if yes), picker(
        i for i, yes in enumerate(is_tensor) if not yes
    )
