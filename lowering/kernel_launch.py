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
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tile_backend.lowering import cuda_state, failure, launch_recipe
from tile_backend.lowering.kernels.build_error import BuildError
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.launch_arguments import Picker, arguments, picker
from tile_backend.lowering.launch_configuration import Measured
from tile_backend.lowering.launch_recipe import Recipe
from tile_backend.lowering.raw_tensors import same_kind

LOGGER = logging.getLogger(__name__)
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


class MissingCudaTileError(ImportError):
    """There is no cuda-tile to launch with."""


REFUSALS = (KernelLimit, BuildError, MissingCudaTileError, launch_recipe.NoKernelError)
"""The errors that say why in a sentence of their own. The reference runs after any other, too."""


class Calls:
    """The calls of one op.

    names: of its arguments, in schema order.
    """

    def __init__(self, op: str, names: tuple[str, ...]) -> None:
        self.op = op
        self.names = names
        self.recent: tuple[Attempt, ...] = ()
        self.newest: Attempt = lambda values: None

    def launched(self, values: tuple[Any, ...]) -> bool:
        """Launch the kernel on arguments and outputs; False where the reference has to run.

        `newest(values)` is the same for most calls, with less around it; true if it launched.
        """
        for attempt in self.recent:
            if (ran := attempt(values)) is not None:
                return ran
        try:
            attempt = self._remember(self._attempt(values))
        except Exception as refusal:  # noqa: BLE001 - a plan may raise anything: see _refused
            return self._refused(values, refusal)
        return bool(attempt(values))

    def _attempt(self, values: tuple[Any, ...]) -> Attempt:
        """What is to be done for calls of a new kind."""
        device = gpu_of(next(value for value in values if isinstance(value, torch.Tensor)))
        if device is None:
            return _settled(values, False)
        launch = _launch()
        described, arch = launch_recipe.describe(values), cuda_state.architecture(device)
        recipe = launch_recipe.recipe(self.op, self.names, described, arch)
        if recipe is None:  # no element
            return _settled(values, True)
        refused = self._refused
        if recipe.measured is not None:
            refused = functools.partial(self._refused_as_measured, recipe.measured)
        return _launcher(launch, recipe, values, device, refused)

    def _remember(self, attempt: Attempt) -> Attempt:
        self.recent = (attempt, *self.recent[: KINDS - 1])
        self.newest = attempt
        return attempt

    def _refused_as_measured(
        self, measured: Measured, values: tuple[Any, ...], refusal: Exception
    ) -> bool:
        """Code that cannot be had for a stored configuration: launch as the plan says."""
        if not isinstance(refusal, BuildError):
            return self._refused(values, refusal)
        launch_recipe.reject(measured, str(refusal))
        self.recent = ()
        return self.launched(values)

    def _refused(self, values: tuple[Any, ...], refusal: Exception) -> bool:
        """Run the reference, now and for all such calls. Raises what is meant to be raised.

        Where code is missing, only for tensors that lie like these: the code that a kernel needs
        depends on whether addresses are multiples of 16 bytes. A kernel that failed may have
        written something: the reference writes all of it again.
        """
        if failure.is_final(refusal):
            raise refusal
        reason = str(refusal) if isinstance(refusal, REFUSALS) else failure.said(refusal)
        if CANNOT_LOAD in reason:
            reason = f"{reason}; a newer NVIDIA driver may take it"
        LOGGER.debug("%s was not launched", self.op, exc_info=refusal)
        warn_once(self.op, reason)
        aligned = isinstance(refusal, BuildError)
        attempt = failure.instead(None, "noting a call", None, _settled, values, False, aligned)
        if attempt is not None:
            self._remember(attempt)
        return False


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
def _launch() -> Callable[..., None]:
    """`ct.launch`. Raises MissingCudaTileError."""
    try:
        launch: Callable[..., None] = importlib.import_module("cuda.tile").launch
    except ImportError as error:
        raise MissingCudaTileError(f"cuda-tile cannot be imported ({error}); {INSTALL}") from error
    return launch


@functools.cache
def warn_once(
    op: str, reason: str, instead: str = "runs its PyTorch reference, not a kernel"
) -> None:
    """One warning for each op and reason."""
    warnings.warn(
        f"torch.ops.tilegym.{op} {instead}: {reason}", KernelFallbackWarning, stacklevel=2
    )


def _settled(values: tuple[Any, ...], ran: bool, aligned: bool = False) -> Attempt:
    """There is nothing to launch for calls of this kind: no element, or no kernel."""
    tensors, rest = _parts(values)
    same, expected = same_kind(tensors(values)), rest(values)
    alignment = _alignment(tensors(values)) if aligned else None

    def attempt(values: tuple[Any, ...]) -> bool | None:
        if not same(*tensors(values)) or rest(values) != expected:
            return None
        return ran if alignment in (None, _alignment(tensors(values))) else None

    return attempt


def _alignment(tensors: tuple[torch.Tensor, ...]) -> list[bool]:
    return [tensor.data_ptr() % 16 == 0 for tensor in tensors]


def _launcher(
    launch: Callable[..., None],
    recipe: Recipe,
    values: tuple[Any, ...],
    device: int,
    refused: Callable[[tuple[Any, ...], Exception], bool],
) -> Attempt:
    """What launches calls of this kind. Everything it needs is a local: it runs at every step.

    refused: called where a launch cannot be; its code is looked up at the first of a new alignment.
    """
    tensors, rest = _parts(values)
    same, expected = same_kind(tensors(values)), rest(values)
    passed, kernel, grid = arguments(recipe, values), recipe.kernel, recipe.grid
    current_device, raw_stream = cuda_state.current_device, cuda_state.raw_stream

    def attempt(values: tuple[Any, ...]) -> bool | None:
        try:
            given = tensors(values)
            if not same(*given) or rest(values) != expected:
                return None
            if current_device() == device:
                launch(raw_stream(device), grid, kernel, passed(given))
            else:
                with cuda_state.on(device):
                    launch(raw_stream(device), grid, kernel, passed(given))
        except Exception as error:  # noqa: BLE001 - whatever a launch raises: see _refused
            return refused(values, error)
        return True

    return attempt


def _parts(values: tuple[Any, ...]) -> tuple[Picker, Picker]:
    """What takes the tensors out of values like these, and what takes the rest."""
    is_tensor = [isinstance(value, torch.Tensor) for value in values]
    return picker(i for i, yes in enumerate(is_tensor) if yes), picker(
        i for i, yes in enumerate(is_tensor) if not yes
    )
