"""One model type: built, counted, rewritten, compared. What comes out is plain data."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from tests.coverage import compare
from tests.coverage.call import Call
from tests.coverage.count import count
from tests.coverage.rewriting import rewritten
from tests.models import inputs
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.tiny_model import tiny_model


def sentence(error: BaseException) -> str:
    """Class and first line of an error, without addresses that change from run to run."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"[:200]


def place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return f"{last.filename.rsplit('/', 1)[-1]}:{last.lineno}"


@torch.no_grad()
def exact_logits(model: torch.nn.Module, arguments: dict[str, Any]) -> torch.Tensor:
    return oracle.float64(oracle.widened(model))(**arguments).logits


def difference(actual: torch.Tensor, eager: torch.Tensor, model: Any, arguments: Any) -> str:
    """What differs, or "". Equal bits need no oracle."""
    if torch.equal(actual, eager):
        return ""
    try:
        exact = exact_logits(model, arguments)
    except Exception as error:  # noqa: BLE001 - code of any model
        return f"no oracle: {sentence(error)}"
    verdict = within_budget(actual, exact, eager)
    return "" if verdict else f"logits: {verdict}"


def missed_object(missed: compare.Missed) -> dict[str, Any]:
    call: Call = missed.call
    fields = {**dataclasses.asdict(call), "category": call.category.value}
    return {**fields, "units": missed.units, "reason": missed.reason}


def probe(model_type: str) -> dict[str, Any]:
    """The row of one type: "built" or "not built", calls, missed calls, sites, differences."""
    start = time.perf_counter()
    row: dict[str, Any] = {"type": model_type, "status": "built"}
    try:
        torch.manual_seed(0)  # some models draw numbers as they run
        model = tiny_model(model_type)
        arguments = inputs.prefill(model)
        calls, output = count(model, arguments)
    except Exception as error:  # noqa: BLE001 - code of any model
        return {**row, "status": "not built", "error": f"{sentence(error)} ({place(error)})"}
    row["calls"] = compare.totals(calls)
    sites: Sequence[Any] = ()
    row["sites"] = {}
    try:
        actual, rewriting = rewritten(model, arguments)
        sites, row["graphs"] = rewriting.passed, len(rewriting.graphs)
        row["sites"] = compare.site_counts(rewriting.sites)
        row["difference"] = difference(actual.logits, output.logits, model, arguments)
    except Exception as error:  # noqa: BLE001 - becomes the row, and the exit status
        row["error"] = f"{sentence(error)} ({place(error)})"
    row["missed"] = [missed_object(missed) for missed in compare.uncovered(calls, sites)]
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row
