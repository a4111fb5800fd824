"""The bench of attention: its judge, a whole case, a row's arithmetic, its text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tile_backend
from bench import (
    attention,
    attention_cases,
    attention_check,
    attention_versions,
    fresh_process,
    gpu_timer,
)
from bench.attention_cases import Case
from bench.attention_programs import program
from bench.attention_table import report
from bench.attention_versions import outcome
from bench.versions import Found, UnavailableError
from tests.small_attention_cases import GPU, KINDS, WRITTEN_OUT
from tile_backend.lowering.budget import Measured, Verdict

EVERY = {**KINDS, **WRITTEN_OUT}

# --- the judge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_what_is_right_is_within_the_budget(case: Case, dtype: torch.dtype, train: bool) -> None:
    case = dataclasses.replace(case, heads=8, dtype=dtype, train=train)
    inputs = case.inputs("cpu")
    slope = torch.randn_like(inputs[0]) if train else None
    part = attention_check.part_of(case, inputs, slope)
    right = program(case) if case.by_steps else attention_versions.by_hand(case, inputs)
    results = outcome(right, inputs, slope)
    verdict = part.verdict(results)
    assert verdict, str(verdict)
    assert len(verdict.outputs) == (4 if train else 1)
    if not train:
        assert (part.heads, part.kv_heads) == (2, 1)
    for index in range(len(results)):
        wrong = list(results)
        wrong[index] = wrong[index].clone()
        wrong[index][0, 0, -1, 3] += 9  # a soft cap has large scores, and with them a wide budget
        assert not part.verdict(wrong)


@pytest.mark.parametrize("case", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_a_version_that_forgets_the_cap_or_the_sinks_is_wrong(case: Case) -> None:
    case = dataclasses.replace(case, queries=min(256, 64 * case.queries), keys=256, train=False)
    case = dataclasses.replace(case, dtype=torch.bfloat16, filled=255 if case.decodes else 0)
    inputs = case.inputs("cpu")
    part = attention_check.part_of(case, inputs, None)
    plain = dataclasses.replace(case, cap=0.0, sinks=False)
    forgetful = [*inputs[:3], *inputs[case.by_head :]]
    assert not part.verdict(outcome(program(plain), forgetful, None))


# --- a whole case ---------------------------------------------------------------------------------


TINY = dataclasses.replace(KINDS["causal"], title="tiny", queries=24, keys=24, train=True)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch, graphs_only: None, tmp_path: Path) -> list[Any]:
    """No code is generated and no process started; what would have been asked of one."""
    asked: list[Any] = []

    def call(*arguments: Any, cache: str) -> float:
        asked.append(arguments)
        return 12.5

    monkeypatch.setattr(fresh_process, "call", call)
    monkeypatch.setattr(attention_cases, "cpu_cases", lambda: [TINY])
    inductor = functools.partial(attention_versions.compiled, "eager")
    monkeypatch.setitem(attention_versions.EVERYWHERE, "inductor", inductor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # the bench sets it
    return asked


def test_a_case_on_a_cpu_from_end_to_end(
    cheap: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["attention", "--rounds", "3", "--no-save"])
    kept: list[Any] = []
    monkeypatch.setattr(attention, "report", lambda rows: kept.extend(rows) or report(rows))
    attention.main()
    (row,) = kept
    assert row["ran"]["decision"] == "reference respelled"
    assert row["ran"]["mask"] == "causal"
    assert list(row["time_us"]) == ["tilegym", "inductor", "sdpa", "again"]
    assert list(row["over_tilegym"]) == ["inductor", "sdpa", "again"]
    assert all(row["correct"].values())
    assert row["void"] == row["not_run"] == {}
    assert row["peak_mib"] == {"tilegym": 12.5, "inductor": 12.5}
    names = ("tilegym", "inductor")
    assert cheap == [("bench.attention", "cpu_peak_mib", "tiny", name) for name in names]
    assert "share_of_ceiling" not in row
    assert capsys.readouterr().out.splitlines()[-1].split()[:4] == [
        *("tiny", "reference", "respelled", "causal")
    ]


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_every_program_is_one_site_of_attention(case: Case) -> None:
    inputs = case.inputs("cpu")
    outcome(attention_versions.compiled("tilegym", case, inputs), inputs, None)
    ran = attention.what_ran()
    assert ran["decision"].startswith("reference"), ran
    report = tile_backend.last_report()
    assert report is not None
    (site,) = (site for site in report.sites if site.fusion == "attention")
    assert site.bindings.get("softcap") == (case.cap or None)
    assert bool(site.bindings.get("sinks")) == case.sinks


def test_memory_of_a_step_is_measured_in_this_process(cheap: list[Any]) -> None:
    assert attention.cpu_peak_mib("tiny", "tilegym") >= 0


def test_a_version_that_cannot_run_is_in_the_row_with_the_reason(
    cheap: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(case: Case, inputs: Sequence[torch.Tensor]) -> Any:
        raise UnavailableError("not\nhere")

    def halved(case: Case, inputs: Sequence[torch.Tensor]) -> Any:
        function = program(case)
        return lambda *given: function(*given) / 2

    versions = {"tilegym": program_of, "broken": broken, "halved": halved}
    monkeypatch.setattr(attention_versions, "makers", lambda device: versions)
    row = attention.row(TINY, attention.measure(TINY, "cpu", 2, cache=""), {})
    assert row["not_run"] == {"broken": "UnavailableError: not here"}
    assert list(row["time_us"]) == ["tilegym", "halved", "again"]
    assert row["correct"] == {"tilegym": True, "halved": False, "again": True}
    assert list(row["void"]) == ["halved"]
    assert "OVER BUDGET" in row["void"]["halved"]
    assert list(row["over_tilegym"]) == ["again"]


def program_of(case: Case, inputs: Sequence[torch.Tensor]) -> Any:
    return program(case)


def test_on_a_gpu_what_can_be_captured_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    def captured(step: Any) -> Any:
        if step == "flex":
            raise RuntimeError("operation not permitted")
        return f"graph of {step}"

    def time_replays(replays: Any, samples: int) -> Any:
        assert replays["again"] == replays["tilegym"] == "graph of tilegym"
        return {name: [1.0] * samples for name in replays}

    names = ("tilegym", "flex", "sdpa")
    monkeypatch.setattr(attention, "steps_of", lambda *_: {name: name for name in names})
    monkeypatch.setattr(gpu_timer, "captured", captured)
    monkeypatch.setattr(gpu_timer, "time_replays", time_replays)
    case = attention.measure(TINY, "cuda", 3, cache="")
    assert case.times == {name: [1.0] * 3 for name in ("tilegym", "sdpa", "again")}
    assert case.not_run == {"flex": "not captured: RuntimeError: operation not permitted"}


def test_no_case_of_that_title_is_an_error(
    cheap: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["attention", "--only", "other*"])
    with pytest.raises(SystemExit, match="no case is called other"):
        attention.main()


# --- arithmetic and text --------------------------------------------------------------------------


GOOD, BAD = Verdict((Measured(1.0, 2.0),)), Verdict((Measured(3.0, 2.0),))


def found(**verdicts: Verdict) -> Found:
    times = {"tilegym": [100.0, 200.0], "sdpa": [150.0, 500.0], "again": [100.0, 200.0]}
    return Found(
        ran={"decision": "kernel", "mask": "causal"},
        times=times,
        verdicts={"tilegym": GOOD, "sdpa": GOOD, **verdicts},
        peaks={"tilegym": 8.04},
        not_run={"flash": "UnavailableError: takes no mask"},
    )


def test_a_row_has_ratios_within_a_round_and_rates() -> None:
    (case,) = (case for case in GPU if case.title == "causal 4x1024")
    ceiling = {"flop_per_us": case.flop / 75, "bytes_per_us": 1.0}
    row = attention.row(case, found(), ceiling)
    assert row["time_us"]["tilegym"]["median"] == 150
    assert row["over_tilegym"]["sdpa"]["median"] == 2  # the mean of 1.5 and 2.5
    assert row["over_tilegym"]["again"]["median"] == 1
    assert row["share_of_ceiling"] == {"tilegym": 0.5, "sdpa": 0.2308, "again": 0.5}
    assert row["tflop_per_s"]["tilegym"] == pytest.approx(case.flop / 150e-6 / 1e12, rel=1e-3)
    assert row["peak_mib"] == {"tilegym": 8.0}
    assert row["budget_used"]["sdpa"] == 0.5


def test_decoding_is_bound_by_bytes() -> None:
    (case,) = (case for case in GPU if case.title == "decode 8x4096 groups 4")
    row = attention.row(case, found(), {"flop_per_us": 1.0, "bytes_per_us": case.bytes / 15})
    assert row["share_of_ceiling"]["tilegym"] == 0.1
    assert row["gb_per_s"]["tilegym"] == pytest.approx(case.bytes / 150e-6 / 1e9, rel=1e-3)
    assert "tflop_per_s" not in row


def test_what_is_wrong_has_no_ratio() -> None:
    row = attention.row(TINY, found(sdpa=BAD), {})
    assert list(row["over_tilegym"]) == ["again"]
    assert "sdpa" not in row["tflop_per_s"]
    assert row["void"] == {"sdpa": str(BAD)}
    ours = attention.row(TINY, found(tilegym=BAD), {})
    assert ours["over_tilegym"] == {}
    assert list(ours["void"]) == ["tilegym", "again"]


def test_the_text_says_what_is_void_and_what_did_not_run() -> None:
    case = GPU[0]
    ceiling = {"flop_per_us": case.flop / 75, "bytes_per_us": 1.0}
    rows = [
        attention.row(case, found(), ceiling),
        attention.row(dataclasses.replace(case, title="second"), found(sdpa=BAD), ceiling),
    ]
    lines = report(rows).splitlines()
    assert lines[0].split()[-5:] == ["sdpa", "again", "flash", "MiB", "inductor"]
    assert lines[1].split()[:6] == ["causal", "4x1024", "kernel", "causal", "0.15", "229"]
    assert lines[1].split()[-4:] == ["2.00", "1.00", "-", "8.0"]
    assert lines[2].split()[-4:] == ["void", "1.00", "-", "8.0"]
    assert lines[3] == f"void: sdpa of second: {BAD}"
    assert lines[4] == ("not run: flash of causal 4x1024, second: UnavailableError: takes no mask")
    assert len(lines) == 5
