"""`make gpu-check` without a GPU: what its steps conclude, and what a step that fails becomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import result_file
from tests import placed
from tests.gpu_kit import calls, check, first_launch, marked_tests, parity, sanitizer
from tests.gpu_kit.calls import Call
from tests.gpu_kit.parity import Results
from tile_backend.lowering import cuda_state
from tile_backend.lowering.kernel_launch import KernelFallbackWarning


def some_calls() -> list[Call]:
    """One of each of two ops."""
    return [call for call in calls.sanitized_calls() if call.title == "ragged"][:2]


def right(call: Call) -> tuple[dict[str, Any], Results]:
    """As if the GPU did what the interpreter does."""
    return call.make(), parity.interpret(call)


def test_calls_are_known_by_their_titles() -> None:
    assert len(parity.known_calls()) == len(list(calls.parity_calls()))


def test_parity_of_what_is_right() -> None:
    outcome = parity.compare(some_calls(), right, parity.interpret)
    assert (outcome.summary, outcome.problems) == ("2 of 2 calls are right", [])
    assert [row["op"] for row in outcome.rows] == ["add_rms_norm", "rms_norm"]
    assert all(row["equal_to_interpreter"] == 1 and row["calls"] == 1 for row in outcome.rows)
    assert all(0 < row["budget_used"] == row["interpreter_used"] <= 1 for row in outcome.rows)


def test_parity_names_what_is_wrong_on_the_gpu() -> None:
    def one_element_off(call: Call) -> tuple[dict[str, Any], Results]:
        after, results = right(call)
        results[0].view(-1)[3] += 1
        return after, results

    outcome = parity.compare(some_calls()[:1], one_element_off, parity.interpret)
    (problem,) = outcome.problems
    assert problem.startswith("rms_norm ragged bfloat16: GPU: output 0 OVER BUDGET: max error")
    assert outcome.summary == "0 of 1 calls are right"
    assert 0.99 < outcome.rows[0]["equal_to_interpreter"] < 1


def test_parity_names_a_wrong_interpreter_and_a_written_argument() -> None:
    def writing(call: Call) -> tuple[dict[str, Any], Results]:
        after, results = right(call)
        after["weight"][0] += 1
        return after, results

    def unwritten(call: Call) -> Results:
        return [result.fill_(-77) for result in parity.interpret(call)]

    outcome = parity.compare(some_calls()[:1], writing, unwritten)
    first, second = outcome.problems
    assert "interpreter: output 0 OVER BUDGET" in first
    assert second == "rms_norm ragged bfloat16: its argument weight is written"
    assert outcome.summary == "0 of 1 calls are right"


def test_parity_takes_no_reference_for_a_kernel() -> None:
    def refused(call: Call) -> tuple[dict[str, Any], Results]:
        raise KernelFallbackWarning("it is not in the kernel store")

    outcome = parity.compare(some_calls(), refused, parity.interpret)
    assert [p.partition(": ")[2] for p in outcome.problems] == ["it is not in the kernel store"] * 2
    assert outcome.summary == "0 of 2 calls are right"


def test_a_tensor_is_placed_with_its_gaps() -> None:
    whole = torch.arange(24.0).to(torch.bfloat16).view(4, 6)
    part = whole[1:, 1::2].t()
    made = placed.on(part, "cpu")
    assert (made.shape, made.stride(), made.storage_offset()) == (part.shape, part.stride(), 7)
    assert torch.equal(made, part)
    made.fill_(0)
    assert whole[1, 1] == 7


def test_no_gpu_and_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (problem,) = first_launch.run("sm_90").problems
    assert problem.endswith("sees no CUDA device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_state, "architecture", lambda device: "sm_100")
    (problem,) = first_launch.run("sm_90").problems
    assert problem == (
        "the kit is for sm_90 and this GPU is sm_100; pack another with: make gpu-kit"
        ' ARGS="--arch sm_100"'
    )


@pytest.mark.parametrize(
    ("code", "said", "summary", "problems"),
    (
        (0, "ok\n========= ERROR SUMMARY: 0 errors\n", "no error found", []),
        (
            86,
            "noise\n========= Invalid __global__ read\n========= ERROR SUMMARY: 2 errors\n",
            "2 errors",
            ["========= Invalid __global__ read\n========= ERROR SUMMARY: 2 errors"],
        ),
        (1, "No module named torch\n", "it ended with status 1", ["No module named torch"]),
        (0, "nothing\n", "it ended with status 0", ["nothing"]),
    ),
)
def test_what_a_checker_of_memory_says(
    code: int, said: str, summary: str, problems: list[str]
) -> None:
    outcome = sanitizer.judged(code, said)
    assert (outcome.summary, list(outcome.problems)) == (summary, problems)


def test_without_a_checker_of_memory_the_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "COMMAND", ("no-such-program",))
    assert sanitizer.run().summary == "no-such-program is not installed"


def test_the_marked_tests_are_found() -> None:
    names = {Path(name).name for name in marked_tests.files()}
    assert {"test_launch_gpu.py", "test_kernels_gpu.py", "test_models_gpu.py"} <= names
    assert "test_habits.py" not in names, "which only has the words in a string"


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="one" time="0.5"/>
<testcase classname="tests.a" name="two" time="1"><failure message="assert 1 == 2"/></testcase>
<testcase classname="tests.a" name="three"><skipped message="needs a CUDA device"/></testcase>
</testsuite></testsuites>"""


def test_failed_and_skipped_tests_are_problems(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    outcome = marked_tests.judged(report)
    assert outcome.summary == "1 of 3 tests passed"
    assert outcome.problems == [
        "tests.a::two: assert 1 == 2",
        "tests.a::three: skipped: needs a CUDA device",
    ]
    assert [row["outcome"] for row in outcome.rows] == ["passed", "failed", "skipped"]
    report.write_text("<testsuites/>")
    assert marked_tests.judged(report).problems == ["pytest found no test marked gpu"]


def script(text: str) -> tuple[str, ...]:
    """A step: a program that is given the file to write."""
    return sys.executable, "-c", f"import sys, pathlib, time, os\n{text}"


PASSING = """
print("noise")
found = '{"summary": "fine", "problems": [], "rows": [], "facts": {}}'
pathlib.Path(sys.argv[1]).write_text(found)
"""


def test_a_step_in_a_process_of_its_own() -> None:
    row = check.run_step("parity", script(PASSING), 60)
    assert (row["step"], row["passed"], row["summary"]) == ("parity", True, "fine")
    assert row["seconds"] >= 0


@pytest.mark.parametrize(
    ("text", "limit", "summary", "last"),
    (
        ("print('before'); os.abort()", 60, "ended with status -6", "before"),
        ("print('before', flush=True); time.sleep(60)", 2, "was stopped after 2 s", "before"),
        ("raise ValueError('no such thing')", 60, "ended with status 1", "no such thing"),
        ("print('wrote nothing')", 60, "ended with status 0", "wrote nothing"),
    ),
)
def test_a_step_that_fails_is_a_row(text: str, limit: float, summary: str, last: str) -> None:
    row = check.run_step("parity", script(text), limit)
    assert (row["passed"], row["summary"]) == (False, summary)
    assert row["problems"][0].endswith(last)


def test_nothing_runs_after_a_failed_first_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sys.argv", ["gpu-check", "--out", str(tmp_path)])
    assert check.main() == 1
    said = capsys.readouterr().out
    assert "first_launch     FAILED in" in said
    assert "sees no CUDA device" in said
    saved = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [row["step"] for row in saved["rows"]] == ["first_launch"]
    assert (saved["commit"], saved["kit"]) == (result_file.commit(), {})
    assert saved["command"] == "make gpu-check"
