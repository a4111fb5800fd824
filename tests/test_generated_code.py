"""The dump has Inductor's code: forward and backward, whether compiled now or found in a cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tile_backend
from tests.norm_program import norm, x_and_more
from tile_backend import errors
from tile_backend.options import Options
from tile_backend.report import GraphFacts
from tile_backend.sessions import Session

TRAIN = """
import json, sys, torch, tile_backend
from torch._dynamo.utils import counters
from tests.norm_program import norm, x_and_more

def train(folder):
    torch.compiler.reset()
    counters.clear()
    options = {"tilegym.report_dir": folder} if folder else {}
    x, _, weight = x_and_more()
    weight.requires_grad_()
    result = torch.compile(norm, backend="tilegym", options=options)(x, weight)
    before = [sorted(texts) for texts in tile_backend.last_report().texts]
    result.sum().backward()
    after = [sorted(texts) for texts in tile_backend.last_report().texts]
    return [before, after, counters["aot_autograd"]["autograd_cache_hit"]]

print(json.dumps([train(sys.argv[1]), train(""), train(sys.argv[2])]))
"""
GRAPHS = ["after", "before"]
FORWARD = ["after", "before", "forward"]
ALL = ["after", "backward", "before", "forward"]


@pytest.mark.slow
def test_cold_and_warm_with_and_without_a_dump(tmp_path: Path) -> None:
    """The dump changes no key of a cache; a backward that is compiled later completes it."""
    cold, warm = tmp_path / "cold", tmp_path / "warm"
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(cold), str(warm)],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        [[FORWARD], [ALL], 0],
        [[[]], [[]], 1],
        [[ALL], [ALL], 1],
    ]
    code = {path.name: path.read_text() for path in (cold / "graphs").iterdir()}
    assert sorted(code) == [f"0_{kind}.py" for kind in ALL]
    assert "def call(" in code["0_forward.py"]
    assert "def call(" in code["0_backward.py"]
    assert code["0_forward.py"] != code["0_backward.py"]
    page = (cold / "index.html").read_text()
    assert 'href="graphs/0_backward.py"' in page
    assert "There is no generated code" not in page
    assert {path.name: path.read_text() for path in (warm / "graphs").iterdir()} == code


def test_debug_folders_of_torch_get_the_dump(graphs_only: None, tmp_path: Path) -> None:
    """With what TORCH_COMPILE_DEBUG=1 and TORCH_COMPILE_DEBUG_DIR set when torch is imported."""
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    x, _, weight = x_and_more()
    with inductor.patch({"trace.enabled": True}), dynamo.patch(debug_dir_root=str(tmp_path)):
        torch.compile(norm, backend="tilegym")(x, weight)
    (dump,) = tmp_path.glob("run_*/tilegym/*")
    assert dump.name.endswith("_norm")
    assert (dump / "index.html").is_file()
    assert sorted(path.name for path in (dump / "graphs").iterdir()) == [
        f"0_{kind}.py" for kind in GRAPHS
    ]


def test_the_code_belongs_to_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphs of one callable, compiled with nothing but a stand-in for Inductor's output."""
    from tile_backend import generated_code

    def program(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        first = norm(x, weight)
        torch._dynamo.graph_break()
        return norm(first.exp(), weight)

    told = []

    def inner(receive: generated_code.Receive, compile_one: object) -> object:
        def compile_and_tell(module: torch.fx.GraphModule, inputs: object, **_: object) -> object:
            from functorch.compile import make_boxed_func

            told.append(receive)
            receive("forward", "exp" if "exp" in module.code else "plain")
            return make_boxed_func(module.forward)

        return compile_and_tell

    monkeypatch.setattr(generated_code, "inner_compile", inner)
    torch.compiler.reset()
    x, _, weight = x_and_more()
    torch.compile(program, backend="tilegym", options={"tilegym.report_dir": str(tmp_path)})(
        x, weight
    )
    torch.compiler.reset()
    assert len(told) == 2
    assert (tmp_path / "graphs" / "0_forward.py").read_text() == "plain"
    assert (tmp_path / "graphs" / "1_forward.py").read_text() == "exp"


def test_code_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    """It may come in the middle of a user's backward."""
    folder = tmp_path / "dump"
    session = Session("f", Options(report_dir=str(folder)))
    graph = session.add(None, (), GraphFacts(), 0.0, {"before": "", "after": ""})
    (folder / "graphs" / "0_backward.py").mkdir()
    with pytest.warns(errors.DumpNotCompleted, match="the dump lacks code .* cannot write"):
        session.generated(graph, "backward", "code")
    assert session.report.texts[0]["backward"] == "code"


def test_files_of_an_earlier_dump_do_not_stay(tmp_path: Path) -> None:
    session = Session("f", Options(report_dir=str(tmp_path)))
    session.add(None, (), GraphFacts(), 0.0, {"before": "", "after": ""})
    (tmp_path / "graphs" / "7_forward.py").write_text("old")
    (tmp_path / "graphs" / "mine.py").write_text("mine")
    session.save()
    assert sorted(path.name for path in (tmp_path / "graphs").iterdir()) == [
        "0_after.py",
        "0_before.py",
        "mine.py",
    ]


def test_a_report_with_texts_pickles(graphs_only: None, tmp_path: Path) -> None:
    import pickle

    x, _, weight = x_and_more()
    torch.compile(norm, backend="tilegym", options={"tilegym.report_dir": str(tmp_path)})(x, weight)
    report = tile_backend.last_report()
    assert report is not None
    assert sorted(report.texts[0]) == ["after", "before"]
    assert pickle.loads(pickle.dumps(report)).texts == report.texts
