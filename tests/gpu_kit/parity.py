"""Every call on the GPU, in the CPU interpreter and in float64.

Both the GPU's and the interpreter's results have to be within the budget that the reference's
errors give; how many of their bits agree is told, and decides nothing: the order of a sum and the
hardware's approximations differ. A kernel that writes its arguments fails.
"""

from __future__ import annotations

import collections
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from tests.gpu_kit import calls, launches
from tests.gpu_kit.calls import Call
from tests.gpu_kit.outcome import Outcome
from tests.kernel_check import outputs_of, verdict_on
from tile_backend.lowering import interpreted
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

WORKERS = 12
"""Processes that interpret, at most."""

Results = list[torch.Tensor]


def run() -> Outcome:
    """Of every call in `calls.parity_calls`."""
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    spawned = multiprocessing.get_context("spawn")  # a fork would inherit the CUDA context
    with ProcessPoolExecutor(workers, spawned) as pool:
        titles = list(known_calls())
        later = dict(zip(titles, pool.map(interpret_titled, titles), strict=True))
        return compare(known_calls().values(), launch, lambda call: later[str(call)])


@functools.cache
def known_calls() -> Mapping[str, Call]:
    """By title, which a worker is sent in the place of tensors."""
    return {str(call): call for call in calls.parity_calls()}


def interpret_titled(title: str) -> Results:
    """In a worker."""
    torch.set_num_threads(1)
    return interpret(known_calls()[title])


def interpret(call: Call) -> Results:
    """The results of the call's kernel in the interpreter."""
    op, values = record(call.op), call.make()
    outputs = outputs_of(op, values)
    interpreted.run(op, values, outputs)
    return outputs


def launch(call: Call) -> tuple[dict[str, Any], Results]:
    """Arguments after the call, and results, brought back from the GPU."""
    values, outputs = launches.on_gpu(call)
    here = {n: v.cpu() if isinstance(v, torch.Tensor) else v for n, v in values.items()}
    return here, [output.cpu() for output in outputs]


def compare(
    wanted: Iterable[Call],
    launch: Callable[[Call], tuple[dict[str, Any], Results]],
    interpret: Callable[[Call], Results],
) -> Outcome:
    """One row for each op and dtype; a problem for each call that is not right."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = collections.defaultdict(list)
    problems: dict[str, list[str]] = {}
    for call in wanted:
        try:
            after, ours = launch(call)
        except KernelFallbackWarning as refusal:
            problems[str(call)] = [str(refusal)]
            continue
        found = judged(call, after, ours, interpret(call))
        problems[str(call)] = found.pop("problems")
        rows[call.op, str(call.dtype).removeprefix("torch.")].append({"call": str(call), **found})
    table = [summed(op, dtype, found) for (op, dtype), found in sorted(rows.items())]
    good = sum(not found for found in problems.values())
    told = [f"{call}: {problem}" for call, found in problems.items() for problem in found]
    return Outcome(f"{good} of {len(problems)} calls are right", told, table)


def judged(call: Call, after: Mapping[str, Any], ours: Results, theirs: Results) -> dict[str, Any]:
    """What is wrong, budgets used by GPU and interpreter, and how many elements agree."""
    before = call.make()
    verdicts = verdict_on(record(call.op), before, ours, theirs)
    problems = [
        f"{where}: {verdict}"
        for where, verdict in zip(("GPU", "interpreter"), verdicts, strict=True)
        if not verdict
    ]
    problems += [
        f"its argument {name} is written"
        for name, value in before.items()
        if isinstance(value, torch.Tensor) and not same(value, after[name]).all()
    ]
    agreeing = [same(a, b) for a, b in zip(ours, theirs, strict=True)]
    return {
        "problems": problems,
        "gpu": verdicts[0].used,
        "interpreter": verdicts[1].used,
        "equal": sum(int(a.sum()) for a in agreeing),
        "elements": sum(a.numel() for a in agreeing),
    }


def same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Elementwise equal, or both NaN."""
    return (a == b) | ((a != a) & (b != b))


def summed(op: str, dtype: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The largest part of the budget that was used, by which call, and the share of equal bits."""
    worst = max(found, key=lambda row: row["gpu"])
    return {
        "op": op,
        "dtype": dtype,
        "calls": len(found),
        "budget_used": round(worst["gpu"], 4),
        "by": worst["call"],
        "interpreter_used": round(max(row["interpreter"] for row in found), 4),
        "equal_to_interpreter": round(
            sum(row["equal"] for row in found) / max(sum(row["elements"] for row in found), 1), 4
        ),
    }
