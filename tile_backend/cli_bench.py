"""The command `bench TARGET`: its arguments, and what it prints and saves."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tile_backend.targets import Request

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SUMMARY = "time a model eager, with Inductor and with this backend"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Besides TARGET, how to measure."""
    command.description = (
        "Time a model eager, with Inductor and with this backend, turn by turn; say who won."
        " Options of the backend are read from the environment (TILEGYM_KERNELS=always)."
    )
    command.add_argument("--rounds", type=int, default=20, help="of every version (20)")
    command.add_argument("--mode", choices=MODES, help="of torch.compile")
    command.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is a GPU")
    command.add_argument("--json", metavar="FILE", help="write every sample and its circumstances")


def run(request: Request, arguments: argparse.Namespace) -> tuple[str, int]:
    """The table, and the exit code: 1 where a version is wrong or did not run. Raises BadTarget."""
    import torch

    from tile_backend import contest, contest_text

    request = dataclasses.replace(request, weights=True)
    if arguments.rounds < 2:
        raise request.bad(f"--rounds {arguments.rounds} has no spread", "Give at least 2")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise request.bad("torch sees no CUDA device", "Leave out --device")
    found = contest.hold(request.resolve(), arguments.rounds, arguments.mode, device)
    if arguments.json:
        contest_text.save(found, arguments.json)
    return contest_text.to_text(found), int(len(found.ran) < len(found.versions))
