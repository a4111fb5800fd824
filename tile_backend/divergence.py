"""A result outside its budget at run time: what is saved of it, and what is said.

    tilegym-report/diverged/rms_norm_forward__model.norm_rms_norm_modeling_llama.py_66/
        tensors.pt     arguments, gradients of the results, results, and those of the reference
        figures.txt    where, and the errors with what is allowed
        replay.py      compares what was saved, runs the op again on the same inputs, and compares

Of each site the first one is saved, forward and backward apart; the folder of an earlier process is
written over.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from tile_backend.atomic_files import write_text
from tile_backend.errors import (
    ReportFolderError,
    ResultDiverged,
    ResultRefused,
    ResultUnchecked,
)
from tile_backend.lowering.budget import Verdict, within_budget
from tile_backend.lowering.check_request import Request
from tile_backend.lowering.run_time_check import Divergence, called, references, run

USUAL = "tilegym-report"
"""The folder, where tilegym.report_dir names none."""
SCRIPT = '''"""{op} ({part}) at {site} was outside its error budget.

Run this where tile-backend is installed; a fusion of your own must be registered before. It
compares what was computed then, and what is computed now, with the float64 oracle, and fails if
that is outside the budget again.
"""

from __future__ import annotations

from pathlib import Path

from tile_backend.divergence import replay

if __name__ == "__main__":
    print(replay(Path(__file__).parent))
'''

_saved: dict[tuple[str, str, str, str], str] = {}
"""(folder, site, op, part) -> where it was saved, or why it could not be."""
_unchecked: set[tuple[str, str, str, str]] = set()


def report(found: Divergence) -> None:
    """Save what is needed to look into it, once per site; warn once, or raise ResultRefused."""
    request, check = found.request, found.request.check
    key = check.folder, check.site, request.op, request.part
    first = key not in _saved
    if first:
        _saved[key] = saved(found)
    fields = {
        "op": request.op,
        "part": request.part,
        "figures": figures(request, found.verdict),
        "saved": _saved[key],
    }
    if check.raises:
        raise ResultRefused(where=check.site, **fields)
    if first:
        warnings.warn(ResultDiverged(where=check.site, **fields), stacklevel=2)


def unchecked(request: Request, why: str) -> None:
    """A check could not be made; said once for each site."""
    key = request.check.folder, request.check.site, request.op, request.part
    if key not in _unchecked:
        _unchecked.add(key)
        fields = {"op": request.op, "part": request.part, "cause": why}
        warnings.warn(ResultUnchecked(where=request.check.site, **fields), stacklevel=2)


def figures(request: Request, verdict: Verdict) -> str:
    """What is over its budget, and by how much."""
    names = [f"gradient of {name}" for name in request.gradients]
    names = names or [f"result {i}" for i in range(len(verdict.outputs))]
    pairs = zip(names, verdict.outputs, strict=True)
    return "; ".join(f"{name}: {measured}" for name, measured in pairs if not measured.ok)


def saved(found: Divergence) -> str:
    """Write the files; a sentence that says where they are, or why there are none."""
    request = found.request
    site = re.sub(r"[^\w.-]+", "_", request.check.site) or "root"
    name = f"{request.op}_{request.part}__{site}"[:150]
    folder = Path(request.check.folder or USUAL) / "diverged" / name
    where = {"op": f"torch.ops.tilegym.{request.op}", "part": request.part}
    said = figures(request, found.verdict)
    try:
        write_text(folder / "figures.txt", f"{request.check.site}\n{where['op']}\n{said}\n")
        write_text(folder / "replay.py", SCRIPT.format(**where, site=request.check.site))
        torch.save(content(found), folder / "tensors.pt")
    except (OSError, RuntimeError, ReportFolderError) as error:
        return f"Its inputs could not be saved: {error}"
    return f"Its inputs are saved: run {folder / 'replay.py'}"


def content(found: Divergence) -> dict[str, Any]:
    """Plain data and tensors, on the device where they were."""
    tensors = [t for t in found.arguments.values() if isinstance(t, torch.Tensor)]
    tensors += [cotangent for cotangent in found.cotangents if cotangent is not None]
    return {
        "request": found.request.to_text(),
        "given": [t.detach() for t in tensors],
        "results": list(found.results),
        "expected": list(found.expected),
    }


def replay(folder: Path) -> str:
    """What replay.py prints. Raises AssertionError where the op is outside its budget again."""
    from tile_backend import registry
    from tile_backend.lowering import custom_op

    custom_op.define(registry.known_fusions())
    here = None if torch.cuda.is_available() else "cpu"
    known = torch.load(folder / "tensors.pt", weights_only=True, map_location=here)
    request = Request.of(known["request"])
    op, arguments, cotangents = called(request, known["given"])
    expected, exact = references(request, op, arguments, cotangents)
    then = within_budget(known["results"], exact, expected)
    now = within_budget(run(request, arguments, cotangents), exact, expected)
    text = f"torch.ops.tilegym.{op.name} ({request.part})\nthen: {then}\nnow:  {now}"
    if not now:
        raise AssertionError(text)
    return text
