"""A result outside its budget at run time: what is saved of it, and what is said.

    tilegym-report/diverged/rms_norm_forward__model.norm_rms_norm_modeling_llama.py_66/
        tensors.pt     arguments, gradients of the results, results, and those of the reference
        figures.txt    where, and the errors with what is allowed
        replay.py      compares what was saved, runs the op again on the same inputs, and compares

Of each site the first one is saved, forward and backward apart; the folder of an earlier process is
written over. The tensors are read back as data that can hold no code, and only if they are those
that the script was written with; the script itself is a program like any other.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch

from tile_backend.atomic_files import write_text
from tile_backend.errors import (
    CannotReplay,
    ReportFolderError,
    ResultDiverged,
    ResultRefused,
    ResultUnchecked,
)
from tile_backend.file_names import safe
from tile_backend.lowering.atomic_write import replaced
from tile_backend.lowering.budget import Verdict, within_budget
from tile_backend.lowering.check_request import Request
from tile_backend.lowering.python_text import docstring
from tile_backend.lowering.run_time_check import Divergence, called, references, run

USUAL = "tilegym-report"
"""The folder, where tilegym.report_dir names none."""
TENSORS = "tensors.pt"
SCRIPT = '''"""{op} ({part}) at {site} was outside its error budget.

Run this where tile-backend is installed; a fusion of your own must be registered before. It
compares what was computed then, and what is computed now, with the float64 oracle, and fails if
that is outside the budget again.
"""

from __future__ import annotations

from pathlib import Path

from tile_backend.divergence import replay

if __name__ == "__main__":
    print(replay(Path(__file__).parent, sha256="{sha256}"))
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
    site = request.check.site.strip() or "root"
    name = safe(f"{request.op}_{request.part}__{site}", distinct=True)
    folder = Path(request.check.folder or USUAL) / "diverged" / name
    op = f"torch.ops.tilegym.{request.op}"
    said = figures(request, found.verdict)
    try:
        write_text(folder / "figures.txt", f"{request.check.site}\n{op}\n{said}\n")
        with replaced(folder / TENSORS) as file:
            torch.save(content(found), file)
        digest = sha256(folder / TENSORS)
        script = SCRIPT.format(op=op, part=request.part, site=docstring(site), sha256=digest)
        write_text(folder / "replay.py", script)
    except (OSError, RuntimeError, ValueError, ReportFolderError) as error:
        return f"Its inputs could not be saved: {error}"
    return f"Its inputs are saved: run {folder / 'replay.py'}"


def sha256(path: Path) -> str:
    """Of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def replay(folder: Path, sha256: str = "") -> str:
    """What replay.py prints. sha256: of the file of tensors; "" for whatever is there.

    Raises AssertionError where the op is outside its budget again, or CannotReplay.
    """
    from tile_backend import registry
    from tile_backend.lowering import custom_op

    custom_op.define(registry.known_fusions())
    known = loaded(folder / TENSORS, sha256)
    try:
        request = Request.of(known["request"])
        op, arguments, cotangents = called(request, known["given"])
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        cause = f"it asks for no op that is known ({type(error).__name__}: {error})"
        raise CannotReplay(path=str(folder / TENSORS), cause=cause) from error
    expected, exact = references(request, op, arguments, cotangents)
    then = within_budget(known["results"], exact, expected)
    now = within_budget(run(request, arguments, cotangents), exact, expected)
    text = f"torch.ops.tilegym.{op.name} ({request.part})\nthen: {then}\nnow:  {now}"
    if not now:
        raise AssertionError(text)
    return text


def loaded(path: Path, digest: str) -> dict[str, Any]:
    """What `content` was. Raises CannotReplay."""
    here = None if torch.cuda.is_available() else "cpu"
    try:
        if digest and sha256(path) != digest:
            raise CannotReplay(path=str(path), cause="it is not the file that was written")
        known: dict[str, Any] = torch.load(path, weights_only=True, map_location=here)
    except CannotReplay:
        raise
    except OSError as error:
        raise CannotReplay(path=str(path), cause=error.strerror or str(error)) from error
    except Exception as error:  # torch does not say what it raises for which damage
        cause = f"it is damaged ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        raise CannotReplay(path=str(path), cause=cause) from error
    return known
