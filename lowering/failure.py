"""A failure of ours costs the one place where it happens, and nothing else.

Whatever is done for one node, match, candidate or site is called through `tried`, which turns what
is raised into a Reason of the kind `internal_failure`; the traceback goes to the log, at the level
of debugging. `instead` goes on with something else, where no site is there to carry the reason, and
leaves it in the list of `noted`. What is meant to end a compile passes (`passes`). `NewGuard` is no
failure: its reason is of the kind `shape_unprovable`, and `instead` leaves it to the log.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch import fx

from tile_backend.lowering.guards import NewGuard
from tile_backend.lowering.node import called
from tile_backend.lowering.reason import Reason, ReasonKind

LOGGER = logging.getLogger(__name__)
FIX = "report it to the project's issue tracker, with what TORCH_LOGS='+tile_backend' prints"
LONGEST = 300
"""Characters of an error's message that a report repeats."""

Given = ParamSpec("Given")
Found = TypeVar("Found")
Other = TypeVar("Other")

_notes: contextvars.ContextVar[list[Reason] | None] = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def noted() -> Iterator[list[Reason]]:
    """The failures inside that no site tells of; equal ones once."""
    notes: list[Reason] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def tried(
    what: str,
    node: fx.Node | None,
    step: Callable[Given, Found],
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> Found | Reason:
    """What the step gives, or why it gives nothing.

    what: the work, for the reason: "matching rms_norm". node: where, None for no place at all.
    """
    try:
        return step(*args, **kwargs)
    except Exception as error:  # whatever it is: it may cost this place only
        if passes(error):
            raise
        return reason(error, what, node)


def instead(
    default: Other,
    what: str,
    node: fx.Node | None,
    step: Callable[Given, Found],
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> Found | Other:
    """What the step gives, else the default, and a note of a failure."""
    try:
        return step(*args, **kwargs)
    except Exception as error:
        if passes(error):
            raise
        why = reason(error, what, node)
        if why.kind is ReasonKind.INTERNAL_FAILURE:
            note(why)
        return default


def note(failed: Reason) -> None:
    """Keep a failure that no site tells of; where nobody keeps them, log it."""
    notes = _notes.get()
    if notes is None:
        LOGGER.warning("%s", failed)
    elif all(failed.text != known.text for known in notes):
        notes.append(failed)


def reason(error: Exception, what: str, node: fx.Node | None = None) -> Reason:
    """Logs the traceback."""
    where = f"{what} at {place(node)}" if node is not None else what
    LOGGER.debug("%s failed", where, exc_info=error)
    if isinstance(error, NewGuard):
        return Reason(
            ReasonKind.SHAPE_UNPROVABLE, error.text, node.name if node is not None else ""
        )
    text = f"{where} failed inside tile-backend: {said(error)}"
    return Reason(ReasonKind.INTERNAL_FAILURE, text, node.name if node is not None else "", FIX)


def place(node: fx.Node) -> str:
    """The node as reasons name it; by its name, where that is what fails."""
    try:
        return called(node)
    except Exception:  # noqa: BLE001 - a node of which nothing can be read still has a name
        return f"`{node.name}`"


def said(error: BaseException) -> str:
    """Class and message of an error, on one line."""
    message = " ".join(str(error).split()).rstrip(".") or "no message"
    short = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
    return f"{type(error).__name__}: {short}"


def is_final(error: BaseException) -> bool:
    """Of an error while a program runs: nothing else is to be tried, that would need more memory
    still, or the error is meant.
    """
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or passes(error)


def stops_a_checkpoint(error: BaseException) -> bool:
    """Whether a checkpoint that runs its body again has what it wanted, and ends it so."""
    checkpoint = sys.modules.get("torch.utils.checkpoint")
    return isinstance(error, getattr(checkpoint, "_StopRecomputationError", ()))


def passes(error: BaseException) -> bool:
    """Whether an error is raised on purpose: by torch for Dynamo, or by us for the user."""
    if getattr(error, "deliberate", False) is True or stops_a_checkpoint(error):
        return True
    if "torch._dynamo" not in sys.modules:  # then it is none of these, and loading them takes long
        return False
    from torch._dynamo.exc import (
        FailOnRecompileLimitHit,
        InternalTorchDynamoError,
        ShortenTraceback,
        TorchDynamoException,
        TorchRuntimeError,
    )

    # The rest are restarts, skipped frames, limits of recompiles and errors of the user.
    broken = InternalTorchDynamoError, ShortenTraceback, TorchRuntimeError
    meant = TorchDynamoException, FailOnRecompileLimitHit
    return isinstance(error, meant) and not isinstance(error, broken)
