"""What a compile of a model costs and comes to: seconds in fresh processes, counts of its code."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import torch

from bench import fresh_process, model_cases, model_configs, model_versions, versions
from bench.model_cases import Case
from tile_backend import code_counts

COMPILED = ("inductor", "tilegym")
"""Versions whose compile time is measured."""
COUNTED = {"inductor": None, "tilegym": "always"}
"""What tilegym.kernels is, of the versions whose code is counted."""
COUNTS = ("sites", "launches", "loops", "products", "kernels", "bytes", "moved", "nodes")


def compile_seconds(title: str, layers: int, version: str, device: str) -> float:
    """Of the first step beyond the second, in this process, which must be a fresh one."""
    case = at_device(title, layers, device)
    with torch.no_grad():
        first = torch.compile(torch.relu, backend="inductor")
        first(torch.ones(64, device=device))
        model, given = case.built(device), case.arguments(device)
        call = model_versions.EVERYWHERE[version](model)
        step = model_versions.step_of(case, call, given)
        begin = time.perf_counter()
        step()
        middle = time.perf_counter()
        step()
    return 2 * middle - begin - time.perf_counter()


def at_device(title: str, layers: int, device: str) -> Case:
    """The case of that title; without a GPU its reduced form."""
    (case,) = (c for m in model_configs.MODELS for c in model_cases.sized(m, 1) if c.title == title)
    return model_cases.reduced(case) if device == "cpu" else model_cases.with_layers(case, layers)


def compile_times(case: Case, device: str, folder: str) -> dict[str, Any]:
    """Seconds by version, cold and warm."""
    found = {}
    for version in COMPILED:
        cache = f"{folder}/{case.title} {version}".replace(" ", "_")  # compilers get it unquoted
        arguments = (
            "bench.model_compile",
            "compile_seconds",
            case.title,
            case.layers,
            version,
            device,
        )
        try:
            cold, warm = (fresh_process.call(*arguments, cache=cache) for _ in range(2))
        except subprocess.CalledProcessError as error:
            found[version] = {"failed": versions.reason_of(error)}
            continue
        found[version] = {"cold": round(cold, 2), "warm": round(warm, 2)}
    return found


def counted(case: Case) -> dict[str, Any]:
    """By version: what its code comes to, with all ops of ours in it as on a GPU, and without."""
    model = case.model.made(case.layers, "meta", case.dtype).to_empty(device="cpu")
    found = {}
    for name, kernels in COUNTED.items():
        torch.compiler.reset()
        given = case.arguments("cpu", values=False)
        with torch.no_grad():
            try:
                counts = code_counts.counts(model, (), given, kernels)
            except (code_counts.NotWholeError, RuntimeError) as error:
                found[name] = {"not_counted": versions.reason_of(error)}
                continue
        found[name] = {n: getattr(counts, n) for n in COUNTS}
    return found
