"""docs/benchmarks.md is what the results say, and says what they do not; targets are judged."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from bench import page, page_models, plots, ratchet, result_file
from bench.markdown import number, spread, table
from bench.model_configs import MODELS
from bench.targets import TARGETS, Target

RESULTS = page.load(result_file.RESULTS)


def test_the_page_and_its_plots_are_what_the_results_say() -> None:
    made = page.pages(RESULTS)
    plots_there = {
        p.relative_to(result_file.ROOT) for p in (result_file.ROOT / page.PLOTS).iterdir()
    }
    assert plots_there == made.keys() - {page.PAGE}
    for path, text in made.items():
        written = (result_file.ROOT / path).read_text(encoding="utf-8")
        assert written == text, f"{path} is not what bench/results says: run python -m bench.page"


def test_every_bench_has_a_section_and_every_run_a_line() -> None:
    text = page.pages(RESULTS)[page.PAGE]
    for bench, (title, _) in page.SECTIONS.items():
        assert f"## {title}\n" in text
        result = RESULTS.get(bench, {"runs": []})
        for run in result.get("runs", [result]):
            assert any(f"`{part}`" in text for part in command_parts(bench, run))
            assert not run["commit"].endswith("+changes")


def command_parts(bench: str, run: dict[str, Any]) -> tuple[str, str]:
    """The whole command, or its arguments where several runs share a line."""
    command = run["command"]
    return command, command.removeprefix(f"python -m bench.{bench} ")


def test_runs_that_differ_in_their_cases_share_a_line() -> None:
    (line,) = page.origins(
        {
            "bench": "attention",
            "runs": [
                RESULTS["attention"] | {"command": f"python -m bench.attention --only {name}"}
                for name in ("'causal*'", "packed")
            ],
        }
    )
    pieces = "`--only 'causal*'`, `--only packed`"
    assert line[-1] == f"`python -m bench.attention` in pieces: {pieces}"


def test_rows_stand_in_the_order_of_the_models_and_sizes() -> None:
    rows = RESULTS["models"]["rows"]
    text, _ = page_models.section(RESULTS["models"] | {"rows": rows[::-1]})
    assert text == page_models.section(RESULTS["models"])[0]
    places = [text.index(f"| {model.name} prefill 8192") for model in MODELS]
    assert places == sorted(places)


def test_a_bench_without_a_result_is_not_measured() -> None:
    text = page.pages({})[page.PAGE]
    assert "## Whole models\n\n**Not measured**: `python -m bench.models` has no result." in text
    assert text.count("not measured |") == len(TARGETS)


def test_a_changed_number_changes_the_page() -> None:
    changed = copy.deepcopy(RESULTS)
    changed["attention"]["rows"][0]["over_tilegym"]["inductor"]["median"] = 98.7
    made = page.pages(changed)
    assert "98.7 (" in made[page.PAGE]
    svg = page.PLOTS / "attention.svg"
    assert made[svg] != page.pages(RESULTS)[svg]


def test_the_command_writes_the_page_and_removes_old_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(result_file, "ROOT", tmp_path)
    monkeypatch.setattr(result_file, "RESULTS", tmp_path / "results")
    old = tmp_path / page.PLOTS / "old.svg"
    old.parent.mkdir(parents=True)
    old.touch()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "attention.json").write_text(json.dumps(RESULTS["attention"]))
    page.main([])
    assert not old.exists()
    assert "## Attention" in (tmp_path / page.PAGE).read_text()
    assert "attention.svg" in capsys.readouterr().out


# --- pieces of the page ---------------------------------------------------------------------------


def test_numbers_and_tables() -> None:
    assert [number(x) for x in (0.12345, 12.345, 1234.5, 0, None)] == [
        *("0.123", "12.3", "1234", "0", "")
    ]
    assert spread({"median": 1.0, "p10": 0.5, "p90": 1.5}) == "1 (0.5 to 1.5)"
    assert spread(None) == ""
    assert table(("a", "b"), [(1, 2)]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_a_plot_is_the_same_each_time_and_has_every_bar() -> None:
    spreads = [{"median": 1.5, "p10": 1.0, "p90": 2.0}, None, {"median": 0.5}]
    made = plots.bars("title", ["one", "two", "three"], {"ours": spreads}, "axis")
    assert made == plots.bars("title", ["one", "two", "three"], {"ours": spreads}, "axis")
    words = {text.strip() for text in ET.fromstring(made).itertext()}
    assert {"title", "one", "two", "three", "axis"} <= words


def test_many_cases_are_one_plot_per_fusion() -> None:
    rows = [
        {"case": f"{fusion} {n}", "fusion": fusion, "over_tilegym": {"inductor": {"median": 1.0}}}
        for fusion in ("rms_norm", "softmax")
        for n in range(20)
    ]
    found = page.page_sections.drawings("Fusions", "fusions", rows)
    assert list(found) == ["fusions-rms-norm", "fusions-softmax"]
    assert list(page.page_sections.drawings("Fusions", "fusions", rows[:3])) == ["fusions"]


def test_what_did_not_run_is_said_once() -> None:
    reasons = {"Liger": "needs a CUDA device", "hub": "needs a CUDA device"}
    rows: list[Any] = [{"case": n, "not_run": dict(reasons), "void": {}} for n in "abcde"]
    rows[0]["not_run"]["torch"] = "no op"
    rows[1]["void"] = {"tilegym": "output 0 ok: 1; output 1 OVER BUDGET: 2", "again": "the same"}
    assert list(page.page_sections.not_run(rows)) == [
        "Liger, hub of every case: needs a CUDA device",
        "torch of a: no op",
    ]
    assert list(page.page_sections.void(rows)) == ["tilegym of b: output 1 OVER BUDGET: 2"]
    assert page.page_sections.counted("abcd", 5) == "4 of 5 cases"


def test_one_wild_spread_does_not_hide_the_others() -> None:
    calm, wild = {"median": 1.0, "p90": 1.2}, {"median": 2.0, "p90": 139.0}
    assert plots.end_of([calm]) == pytest.approx(1.26)
    assert plots.end_of([calm, wild]) == pytest.approx(4.2)
    assert plots.end_of([]) == 1


# --- targets --------------------------------------------------------------------------------------


def model(case: str, speedup: float, **more: Any) -> dict[str, Any]:
    found = {"tilegym": {"median": speedup}, "TileGym patched": {"median": 0.5}}
    return {
        "case": case,
        "device": "H200",
        "speedup": found,
        "speedup_same_mode": {"tilegym reduce-overhead": {"median": speedup - 0.1}},
        **more,
    }


def fusion(case: str, auto: float, share: float, bytes_: int = 2**27) -> dict[str, Any]:
    over = {"auto": {"median": auto}, "inductor": {"median": 1.0}}
    sizes = {"bytes": bytes_, "flop": 0}
    return {"case": case, "device": "H200", "over_tilegym": over, **sizes} | {
        "share_of_ceiling": {"tilegym": share}
    }


def verdicts(models: list[Any], fusions: list[Any]) -> list[str]:
    results = {"models": {"rows": models}, "fusions": {"rows": fusions}}
    return [target.verdict(results) for target in TARGETS]


def test_targets_are_met_missed_or_not_measured() -> None:
    rows = [model("a prefill 8192", 1.6), model("b prefill 8192", 0.96), model("a decode 1", 1.35)]
    found = verdicts(rows, [fusion("norm", 0.9, 0.95), fusion("small", 1.25, 0.3, 2**10)])
    assert found == [
        "missed by 2%: met in 2 of 3 cases; worst 0.96, b prefill 8192",
        "missed by 12%: met in 2 of 3 cases; worst 0.86, b prefill 8192",
        "missed by 18%: met in 1 of 2 cases; worst 0.80, small",
        "missed by 26%: met in 1 of 2 cases; worst 0.96, b prefill 8192",
        "met in 2 of 2 cases; worst 1.92, b prefill 8192",
        "met in 1 of 1 cases; worst 1.25, a decode 1",
        "met in 1 of 1 cases; worst 0.95, norm",
    ]


def test_a_processor_meets_no_target() -> None:
    rows = [model("a prefill 8192", 2.0, device="cpu")]
    assert set(verdicts(rows, [fusion("norm", 1.0, 1.0) | {"device": "cpu"}])) == {"not measured"}


def test_a_version_that_is_void_is_not_judged() -> None:
    row = model("a prefill 8192", 2.0) | {"speedup": {}, "speedup_same_mode": {}}
    assert set(verdicts([row], [])) == {"not measured"}


def test_worst_is_the_least() -> None:
    target = Target("t", 1.0, lambda _: iter([("x", 3.0), ("y", 2.0)]))
    assert target.verdict({}) == "met in 2 of 2 cases; worst 2.00, y"


def test_the_ratchet_knows_every_bench_with_figures() -> None:
    # A test compares the counters exactly; a row of a load is one measurement, without a spread.
    without = {"static_counters", "load"}
    assert ratchet.FIGURES.keys() == page.SECTIONS.keys() - without
