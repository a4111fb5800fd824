"""Results of benches say where they come from; the benches share a small Llama of a known shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import cpu_prefill, fresh_process, launch_overhead, result_file
from bench.tiny_llama import tiny_llama, tokens
from tile_backend import step_memory, turns


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(result_file, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_a_result_names_machine_versions_command_and_commit(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["bench/example.py", "--rounds", "3"])
    result_file.save("example", [{"layers": 2}], most=1.02)
    saved = json.loads((results / "example.json").read_text(encoding="utf-8"))
    assert saved["command"] == "python -m bench.example --rounds 3"
    assert len(saved["commit"].removesuffix("+changes")) == 40
    assert {"processor", "cores", "load"} <= saved["machine"].keys()
    assert {"python", "torch", "transformers", "tile-backend"} <= saved["versions"].keys()
    assert saved["rows"] == [{"layers": 2}]
    assert saved["most"] == 1.02


def test_spread_is_median_and_deciles() -> None:
    assert turns.spread([float(n) for n in range(11)]) == {
        "median": 5.0,
        "p10": 1.0,
        "p90": 9.0,
    }


def test_table_aligns_columns() -> None:
    assert result_file.table(("a", "long"), [(10, 2)]) == " a  long\n10     2"


def test_committed_results_are_of_a_commit() -> None:
    for path in (result_file.ROOT / "bench" / "results").glob("*.json"):
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert saved["command"].startswith((f"python -m bench.{path.stem}", "make "))
        assert saved["rows"]
        assert not saved["commit"].endswith("+changes"), f"{path.name}: measured on changed files"


def test_the_model_has_the_layers_asked_for() -> None:
    model = tiny_llama(layers=3)
    assert len(model.model.layers) == 3
    assert model.config.hidden_size == 64
    assert model(tokens(2, 5)).logits.shape == (2, 5, 128)


def test_a_function_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    # In the child, "os" is the module and "getenv" the function.
    found = fresh_process.call("os", "getenv", "TORCHINDUCTOR_CACHE_DIR", cache=str(tmp_path))
    assert found == str(tmp_path)


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls: Any = {name: lambda name=name: order.append(name) for name in "ab"}
    found = launch_overhead.time_rounds(calls, rounds=3, repeats=2, finish=lambda: None)
    assert "".join(order[40:]) == "aabb" + "bbaa" + "aabb"
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}


@pytest.mark.stub
@pytest.mark.slow
def test_launch_overhead_compares_ways_to_launch() -> None:
    with launch_overhead.launching() as (device, driver), torch.no_grad():
        assert (device, driver) == ("cpu", "stub")
        rows = [
            launch_overhead.measure(case, device, rounds=2, repeats=100)
            for case in launch_overhead.CASES[:2]
        ]
    assert [row["op"] for row in rows] == ["rms_norm", "rms_norm"]
    ways = {"launch_us", "compiled_us", "define_impl_us", "custom_op_us", "graph_us"}
    assert rows[0].keys() - {"case", "op"} == ways
    assert rows[1].keys() - {"case", "op"} == {"launch_us", "compiled_us"}
    assert all(value > 0 for way in ways for value in rows[0][way].values())
    text = launch_overhead.report(rows)
    assert [line.split()[0] for line in text.splitlines()[-4:]] == [
        *("graph", "compiled", "define_impl", "custom_op")
    ]


def test_prefill_reports_times_and_memory() -> None:
    row = {
        "tokens": 4096,
        "inductor_ms": 1300.3,
        "tilegym_ms": 810.4,
        "speedup": {"median": 1.604},
        "noise": {"median": 1.02},
        "inductor_peak_mib": 127.9,
        "tilegym_peak_mib": 65.6,
    }
    line = cpu_prefill.report([row]).splitlines()[1].split()
    assert line == ["4096", "1300.3", "810.4", "1.60", "1.02", "127.9", "65.6"]


def test_memory_of_a_process_is_read_from_the_kernel() -> None:
    before = step_memory.resident_mib("VmRSS")
    block = torch.ones(64 * 2**18)
    assert step_memory.resident_mib("VmRSS") > before + 32
    assert step_memory.resident_mib("VmHWM") >= before + 32
    assert block.numel()
