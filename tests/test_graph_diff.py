"""The dump: its files and words, that it is written whole, and that its repros run."""

from __future__ import annotations

import dataclasses
import json
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import tile_backend
from tests.report_samples import CPU, FACTS, REPORT, declined, near_miss, norm
from tile_backend import errors
from tile_backend.lowering.site import Decision, OpCall, Site, TensorSpec
from tile_backend.report import Report
from tile_backend.repro import Case, tensor

NORMS = "001_rms_norm__model.layers.N.input_layernorm"
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return REPORT.save(tmp_path / "deep" / "dump")


def test_one_folder_per_distinct_rewrite(dump: Path) -> None:
    files = [path.relative_to(dump).as_posix() for path in dump.rglob("*") if path.is_file()]
    assert sorted(files) == [
        f"{NORMS}/diff.txt",
        f"{NORMS}/repro.py",
        "002_rms_norm__model.norm/diff.txt",
        "002_rms_norm__model.norm/repro.py",
        "003_declined_silu_mul__model.layers.N.mlp/diff.txt",
        "004_near-miss_add_rms_norm__model.final/diff.txt",
        "graphs/not_kept.txt",
        "index.html",
        "report.json",
        "report.txt",
    ]  # fmt: skip
    assert (dump / "report.txt").read_text() == REPORT.to_text() + "\n"
    assert json.loads((dump / "report.json").read_text()) == json.loads(REPORT.to_json())


def test_diff_of_a_fused_site(dump: Path) -> None:
    assert (dump / NORMS / "diff.txt").read_text() == (GOLDEN / "fused_diff.txt").read_text()


def test_diff_says_whether_the_ops_were_replaced(tmp_path: Path) -> None:
    kernel = Decision("kernel", "estimated")
    Report("Tiny", (norm("model.norm", decision=kernel),), (FACTS,)).save(tmp_path)
    text = (tmp_path / "001_rms_norm__model.norm" / "diff.txt").read_text()
    assert "--- removed: 3 ops\n- pow_1 = hidden.pow(2) " in text
    assert "+++ put in\n+ rms_1 = torch.ops.tilegym.rms_norm(" in text


def test_diff_of_a_near_miss(dump: Path) -> None:
    text = (dump / "004_near-miss_add_rms_norm__model.final" / "diff.txt").read_text()
    assert text == (GOLDEN / "near_miss_diff.txt").read_text()


def test_alike_sites_are_one_entry_and_others_are_not(tmp_path: Path) -> None:
    wider = TensorSpec("float32", ("s27", 128), (128, 1), "cpu", (6, 128), (128, 1))
    other = norm("model.layers.7.input_layernorm")
    assert other.call is not None
    arguments = {**other.call.arguments, "x": wider}
    call = OpCall(other.call.op, arguments, other.call.operands, other.call.results)
    changed = dataclasses.replace(other, call=call)
    report = Report("Tiny", (norm("model.layers.0.input_layernorm"), changed, other), (FACTS,))
    report.save(tmp_path)
    folders = sorted(path.parent.name for path in tmp_path.glob("*/diff.txt"))
    assert folders == [NORMS, NORMS.replace("001", "002")]
    assert "graph 0  model.layers.7" in (tmp_path / NORMS / "diff.txt").read_text()


def test_saving_again_removes_entries_that_are_gone_and_nothing_else(dump: Path) -> None:
    (dump / "notes.txt").write_text("mine")
    (dump / "003_declined_silu_mul__model.layers.N.mlp" / "mine.txt").write_text("mine")
    Report("Tiny", (norm("model.norm"),), (FACTS,)).save(dump)
    assert sorted(path.name for path in dump.iterdir()) == [
        "001_rms_norm__model.norm",
        "003_declined_silu_mul__model.layers.N.mlp",
        "graphs",
        "index.html",
        "notes.txt",
        "report.json",
        "report.txt",
    ]


def test_no_temporary_files_are_left(dump: Path) -> None:
    assert not [path for path in dump.rglob("*") if path.name.startswith(".")]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(errors.ReportFolderError) as caught:
        REPORT.save(occupied)
    assert str(caught.value).startswith(f"cannot write the report to '{occupied}")
    assert "tilegym.report_dir (or TILEGYM_REPORT_DIR)" in str(caught.value)


def test_names_are_safe_for_file_systems(tmp_path: Path) -> None:
    site = dataclasses.replace(norm("a/b:c." + "x" * 300), call=None)
    Report("f", (site, norm("")), (FACTS,)).save(tmp_path)
    names = sorted(path.parent.name for path in tmp_path.glob("*/diff.txt"))
    assert names[0].startswith("001_rms_norm__a_b_c.xxx")
    assert max(map(len, names)) == 150
    assert names[1] == "002_rms_norm__root"


def run_repro(path: Path) -> str:
    run = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_words_of_the_repro(dump: Path) -> None:
    assert (dump / NORMS / "repro.py").read_text() == (GOLDEN / "repro.txt").read_text()


def test_repro_runs_and_checks_the_op(dump: Path) -> None:
    said = run_repro(dump / NORMS / "repro.py")
    assert said.startswith("torch.ops.tilegym.rms_norm: output 0 ok: max error ")
    assert " us, reference " in said.splitlines()[1]


def test_a_repro_takes_a_dtype_by_its_name(tmp_path: Path) -> None:
    """Where a user calls softmax in float32 on bfloat16, the op has an argument that is a dtype."""

    def program(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1, dtype=torch.float32)

    x = torch.randn(4, 16, dtype=torch.bfloat16)
    tile_backend.explain(program, x).save(tmp_path)
    (script,) = tmp_path.glob("*softmax*/repro.py")
    assert "output 0 ok" in runpy.run_path(str(script))["CASE"].check()


def test_repro_reports_an_op_outside_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("rms_norm", {"x": torch.ones(2, 8), "weight": None, "eps": 1e-6})
    case.check()
    monkeypatch.setattr(Case, "op_call", lambda self: lambda x, **_: x + 1)
    with pytest.raises(
        AssertionError, match="rms_norm is outside its budget: output 0 OVER BUDGET"
    ):
        case.check()


@pytest.mark.parametrize(
    ("shape", "stride", "dtype"),
    (
        ((2, 3), (3, 1), "float32"),
        ((2, 3), (1, 2), "bfloat16"),
        ((2, 3), (0, 1), "float16"),
        ((2, 1, 4), (64, 64, 2), "complex64"),
        ((5,), (1,), "bool"),
        ((2, 2), (2, 1), "int64"),
        ((0, 4), (4, 1), "torch.float32"),
    ),
)
def test_repro_inputs_have_the_layout_of_the_site(
    shape: tuple[int, ...], stride: tuple[int, ...], dtype: str
) -> None:
    made = tensor(shape, stride, dtype, "cuda:0" if not torch.cuda.is_available() else "cpu")
    assert (tuple(made.shape), made.stride()) == (shape, stride)
    assert str(made.dtype) == f"torch.{dtype.removeprefix('torch.')}"


def test_sites_without_a_call_have_no_repro(tmp_path: Path) -> None:
    site = Site("softmax", "fused", "a", "f.py:1", 0, decision=CPU)
    Report("f", (site, declined("b")), (FACTS,)).save(tmp_path)
    assert not list(tmp_path.rglob("repro.py"))


def test_processes_that_know_different_graphs_may_write_one_dump(tmp_path: Path) -> None:
    """Ranks of a training add graphs one after the other, each at its own time."""
    texts = {"before": "a", "after": "b", "forward": "c", "backward": "d"}
    fewer = Report("f").extended([norm("a")], FACTS, {"before": "a", "after": "b"})
    more = fewer.extended([norm("b"), declined("c"), near_miss("d")], FACTS, texts)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda report: report.save(tmp_path), [fewer, more] * 40))
    more.save(tmp_path)
    assert len(list(tmp_path.glob("*/diff.txt"))) == 4
    assert len(list(tmp_path.glob("graphs/*.py"))) == 6
