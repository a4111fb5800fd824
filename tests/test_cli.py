"""The command line: what each command prints and returns, for real and on hand-made reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.json_schema import violations
from tests.report_samples import FACTS, REPORT
from tile_backend import cli, lock_file
from tile_backend.patterns import all_fusions
from tile_backend.report import Report
from tile_backend.version import VERSION

LLAMA = {"add_rms_norm": 4, "attention": 2, "rms_norm": 1, "rotary": 2, "silu_mul": 2}


def stub(x: Any) -> Any:
    return x


STUB = ["tests.test_cli:stub", "--input", "float32[2]"]


@pytest.fixture
def hand_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "report_on", lambda target: REPORT)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.usefixtures("hand_made")
def test_explain_prints_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "explain", *STUB) == (0, REPORT.to_text() + "\n", "")


@pytest.mark.usefixtures("hand_made")
def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", *STUB, "--json")
    assert (code, json.loads(out)) == (0, json.loads(REPORT.to_json()))


@pytest.mark.usefixtures("hand_made")
def test_explain_saves_the_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "dump"
    code, _, err = run(capsys, "explain", *STUB, "--save", str(folder))
    assert (code, err) == (0, f"saved to {folder}\n")
    assert (folder / "index.html").is_file()


@pytest.mark.usefixtures("hand_made")
def test_lock_then_expect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.json"
    code, out, _ = run(capsys, "lock", *STUB, "-o", str(path))
    assert (code, out) == (0, f"{path}: 5 sites of Tiny\n")
    assert json.loads(path.read_text())["written_by"] == (
        "python -m tile_backend lock tests.test_cli:stub --input 'float32[2]'"
    )
    assert run(capsys, "explain", *STUB, "--expect", str(path))[0] == 0
    monkeypatch.setattr(cli, "report_on", lambda target: Report("Tiny", REPORT.sites[1:], (FACTS,)))
    code, _, err = run(capsys, "explain", *STUB, "--expect", str(path))
    assert code == 1
    assert "rms_norm: 4 of 5 expected, lost at model.layers.0.input_layernorm" in err


@pytest.mark.usefixtures("hand_made")
def test_lock_writes_beside_you_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "lock", *STUB)
    assert (code, out.split(":")[0]) == (0, "tests.test_cli_stub.lock.json")
    assert lock_file.load("tests.test_cli_stub.lock.json") == lock_file.fused_sites(REPORT)


@pytest.mark.usefixtures("hand_made")
def test_diff_of_two_dumps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = (str(tmp_path / name) for name in ("before", "after"))
    assert run(capsys, "explain", *STUB, "--save", before)[0] == 0
    monkeypatch.setattr(cli, "report_on", lambda target: Report("Tiny", REPORT.sites[1:], (FACTS,)))
    assert run(capsys, "explain", *STUB, "--save", after)[0] == 0
    same = "Tiny: 0 lost, 0 gained, 0 changed, 0 obstacle, 8 the same\n"
    assert run(capsys, "diff", before, before) == (0, same, "")
    code, out, _ = run(capsys, "diff", before, f"{after}/report.json")
    assert code == 1
    assert out.splitlines()[1].split() == [
        *("lost", "rms_norm", "model.layers.0.input_layernorm", "modeling.py:67", "not", "there")
    ]
    code, out, err = run(capsys, "diff", before, str(tmp_path / "nowhere"))
    assert (code, out) == (1, "")
    assert "nowhere' as a dump: No such file or directory. Write one with" in err


def test_a_failed_request_is_one_sentence_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "explain", "lama")
    assert (code, out) == (1, "")
    assert err.startswith("tile-backend: unknown target 'lama': ")
    assert len(err.splitlines()) == 1


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert caught.value.code == 0
    first_words = {line.split()[0] for line in said.splitlines() if line.strip()}
    assert first_words >= {"explain", "lock", "fusions", "doctor", "precompile", "tune", "bench"}
    assert "not available" not in said


def test_wrong_usage_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["explian", "llama"])
    assert caught.value.code == 2
    assert "invalid choice: 'explian'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"{VERSION}\n"


def test_fusions_are_listed_with_their_ops(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fusions")
    rows = out.splitlines()[1:]
    assert code == 0
    assert [row.split()[0] for row in rows] == [fusion.name for fusion in all_fusions()]
    for fusion, row in zip(all_fusions(), rows, strict=True):
        assert row.endswith(fusion.summary)
        assert ", ".join(op.name for op in fusion.ops) in row
        declined = sum(spelling.declined is not None for spelling in fusion.spellings)
        supported = len(fusion.spellings) - declined
        assert row.split()[1:3] == [str(supported), str(declined)]
    assert any(int(row.split()[2]) for row in rows), "attention has forms without an op"


def test_doctor_examines_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert out.startswith(f"tile-backend  {VERSION}\n")
    assert "\nmatch and explain  yes\n" in out


def test_python_m_runs_the_command_line() -> None:
    command = [sys.executable, "-m", "tile_backend", "--version"]
    assert (
        subprocess.run(command, capture_output=True, check=True).stdout.decode() == f"{VERSION}\n"
    )


def test_llama_has_its_sites(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", "llama", "--json")
    report = json.loads(out)
    assert (code, report["title"], report["counts"]) == (0, "LlamaForCausalLM", LLAMA)
    schema = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text())
    assert list(violations(report, schema, schema, "report")) == []


def test_a_folder_is_explained_without_memory_for_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    code, out, _ = run(capsys, "explain", str(tmp_path), "--json")
    assert (code, json.loads(out)["counts"]) == (0, LLAMA)
