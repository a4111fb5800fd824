"""Libraries that patch a model's modules, each in a process of its own, with Inductor as a control.

They replace classes and functions in Transformers' modules and undo nothing, so rounds cannot be
interleaved with those of other versions: the process times Inductor on the unpatched model first,
and the library's ratio is to that. TileGym is run as its users run it, eagerly: its ops break the
graph. Liger and the kernels of the hub are compiled by Inductor.
"""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench import fresh_process, model_cases, model_check, model_versions
from bench.model_cases import Case
from bench.versions import Found, reason_of
from tile_backend import dynamo_counts, kernel_events, step_memory, turns
from tile_backend.lowering.budget import Measured, Verdict

Facts = dict[str, Any]


class NotThereError(Exception):
    """The library does not know the model, or is not installed."""


def patch_tilegym(case: Case) -> None:
    """Raises NotThereError."""
    patch("tilegym.transformers", "apply_tilegym_kernel_to", "tilegym", case, use_cutile=True)


def patch_liger(case: Case) -> None:
    """Raises NotThereError."""
    patch("liger_kernel.transformers", "apply_liger_kernel_to", "liger", case)


def patch(module: str, prefix: str, library: str, case: Case, **given: Any) -> None:
    """Call the library's function for the model. Raises NotThereError."""
    known = case.model.peers.get(library)
    if known is None:
        raise NotThereError(f"{library} has no patches for {case.model.family}")
    try:
        function = getattr(importlib.import_module(module), f"{prefix}_{known}")
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise NotThereError(f"{library} cannot be used: {error}") from error
    function(**given)


def nothing(case: Case) -> None:
    """The hub's kernels are put into a model, not into modules."""


def as_it_is(model: Any) -> Any:
    """A model is patched through its modules."""
    return model


def with_kernels(model: Any) -> Any:
    """With Hugging Face's `use_kernels`, from its cache: nothing is downloaded without `--hub`."""
    model.set_use_kernels(True)
    return model


PEERS: dict[str, tuple[Callable[[Case], None], Callable[[Any], Any], model_versions.Maker]] = {
    "TileGym patched": (patch_tilegym, as_it_is, model_versions.eager),
    "Liger patched": (patch_liger, as_it_is, model_versions.EVERYWHERE["inductor"]),
    "HF kernels": (nothing, with_kernels, model_versions.EVERYWHERE["inductor"]),
}
"""By name: what is done before the model is built, to the model, and how it is run."""


def measured(case: Case, name: str, rounds: int, device: str) -> Facts:
    """As JSON: seconds of each round, those of the control, verdict, memory, kernels, breaks; or
    `not_run`, why. This process cannot be used for anything else afterwards.
    """
    before, change, make = PEERS[name]
    try:
        with torch.no_grad():
            model, given = case.built(device), case.arguments(device)
            verdict, _ = model_check.judge(case, model, given)  # of the model as it is
            control = timed(case, model_versions.EVERYWHERE["inductor"](model), given, rounds)
            torch.compiler.reset()
            before(case)
            patched = case.built(device)
            patched.load_state_dict(model.state_dict())  # its modules may draw other numbers
            del model
            found = timed(case, make(change(patched)), given, rounds, verdict)
    except Exception as error:  # noqa: BLE001 - whatever it is, the row has it
        return {"not_run": reason_of(error)}
    return {**found, "control": control["seconds"]}


def timed(
    case: Case,
    call: model_versions.Call,
    given: Facts,
    rounds: int,
    verdict: Callable[[torch.Tensor], Verdict] | None = None,
) -> Facts:
    """Check and time one version."""
    step = model_versions.step_of(case, call, given)
    with dynamo_counts.graphs() as graphs:
        step()
        step()
    found: Facts = {"graphs": graphs.count, "breaks": graphs.breaks}
    if verdict is not None:
        judged = verdict(model_versions.judged_step(case, step, given))
        used = {"correct": bool(judged), "verdict": str(judged), "budget_used": judged.used}
        found |= used
        if given["input_ids"].is_cuda:
            found["peak_mib"] = step_memory.gpu_peak_mib(step)
            found["kernels"] = kernel_events.launched(step)
    return {**found, "seconds": turns.time_rounds({"step": step}, rounds)["step"]}


# --- processes of their own ----------------------------------------------------------------------


def run_all(case: Case, found: Found, rounds: int, cache: str) -> dict[str, Any]:
    """Patched libraries, on a GPU; by name what they came to. Their times go into `found`."""
    facts: dict[str, Any] = {}
    for name in PEERS:
        arguments = "bench.model_peers", "peer", case.title, case.layers, name, rounds
        try:
            told = fresh_process.call(*arguments, cache=f"{cache}/{name}".replace(" ", "_"))
        except subprocess.CalledProcessError as error:  # a crash, or no memory
            told = {"not_run": reason_of(error)}
        if reason := told.get("not_run"):
            found.not_run[name] = reason
            continue
        facts[name] = told
        found.times[name] = [1e6 * s for s in told["seconds"]]
        found.peaks[name] = told["peak_mib"]
        found.verdicts[name] = verdict_of(told)
    return facts


def verdict_of(told: Mapping[str, Any]) -> Verdict:
    """Another process's."""
    if told["correct"]:
        return Verdict((Measured(told["budget_used"], 1.0),))
    return Verdict((Measured(math.inf, problem=told["verdict"]),))


def peer(title: str, layers: int, name: str, rounds: int) -> Mapping[str, Any]:
    """In a process of its own, on a GPU."""
    (case,) = (c for c in model_cases.gpu_cases(sys.maxsize) if c.title == title)
    return measured(model_cases.with_layers(case, layers), name, rounds, "cuda")
