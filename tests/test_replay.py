"""What is saved of a diverged result: whole or not at all, and replayed only if it is that."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.disk_faults import STEPS, at, full
from tests.norm_program import norm
from tile_backend import divergence, errors
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.check_request import Check, Request
from tile_backend.lowering.run_time_check import Divergence


@pytest.fixture
def diverged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tell of a result outside its budget, in a folder: what is said of it."""
    monkeypatch.setattr(divergence, "_saved", {})
    x, weight = torch.ones(2, 64), torch.ones(64)
    exact = (norm(x, weight),)
    wrong = (exact[0] + 1,)

    def tell(folder: Path, raises: bool = False) -> str:
        check = Check(raises=raises, folder=str(folder), site="a rms_norm f.py:1")
        numbers = {"eps": 1e-6, "offset": 0.0, "rounding": "once"}
        request = Request(check, "rms_norm", ("x", "weight"), numbers)
        arguments = {"x": x, "weight": weight, **numbers}
        verdict = within_budget(wrong, (exact[0].double(),), exact)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            divergence.report(Divergence(request, arguments, (), wrong, exact, verdict))
        (found,) = caught
        assert found.category is errors.ResultDiverged
        return str(found.message)

    return tell


@pytest.mark.parametrize("step", STEPS)
def test_a_diverged_result_that_cannot_be_saved_is_still_told(
    step: str, diverged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(step, monkeypatch)
    said = diverged(tmp_path / "dump")
    assert "Its inputs could not be saved: " in said
    assert "No space left on device" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_tensors_that_do_not_fit_leave_no_script_that_cannot_run(
    diverged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", full)
    assert "could not be saved: " in diverged(tmp_path)
    (folder,) = (tmp_path / "diverged").iterdir()
    assert [path.name for path in folder.iterdir()] == ["figures.txt"]


def test_what_was_saved_is_replayed_only_if_it_is_that(diverged: Any, tmp_path: Path) -> None:
    diverged(tmp_path)
    (folder,) = (tmp_path / "diverged").iterdir()
    tensors, script = folder / "tensors.pt", (folder / "replay.py").read_text()
    digest = divergence.sha256(tensors)
    assert f'sha256="{digest}"' in script
    assert "then: output 0 OVER BUDGET" in divergence.replay(folder, digest)
    whole = tensors.read_bytes()
    for number, changed in enumerate((whole[:-1], b"", whole[:100] + b"x" + whole[101:])):
        tensors.write_bytes(changed)
        with pytest.raises(errors.CannotReplay, match="it is not the file that was written"):
            divergence.replay(folder, digest)
        if number < 2:
            with pytest.raises(errors.CannotReplay):
                divergence.replay(folder)
    tensors.unlink()
    with pytest.raises(errors.CannotReplay, match="No such file"):
        divergence.replay(folder, digest)


REQUESTS = {
    "code": {"request": print},
    "no request": {"given": []},
    "no JSON": {"request": "[" * 100_000},
    "another op": {"op": "nobody"},
    "no op": {"op": "__class__"},
    "a dtype that is none": {"numbers": {"eps": {"dtype": "load"}}},
    "too few tensors": {"tensors": ["x"]},
    "a list": [],
}


@pytest.mark.parametrize("name", REQUESTS)
def test_tensors_that_ask_for_something_else_are_refused(
    name: str, diverged: Any, tmp_path: Path
) -> None:
    diverged(tmp_path)
    (folder,) = (tmp_path / "diverged").iterdir()
    known = torch.load(folder / "tensors.pt", weights_only=True)
    wrong = REQUESTS[name]
    if isinstance(wrong, dict) and "request" not in wrong and "given" not in wrong:
        wrong = known | {"request": json.dumps(json.loads(known["request"]) | wrong)}
    torch.save(wrong, folder / "tensors.pt")
    with pytest.raises(errors.CannotReplay, match=r"damaged|asks for no op"):
        divergence.replay(folder)
