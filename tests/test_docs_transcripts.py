"""What README.md says that a command prints is what it prints, up to times."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch._inductor.graph import GraphLowering

import tile_backend
from tests.test_docs import README, blocks
from tile_backend import cli, demo
from tile_backend.inductor import without_codegen
from tile_backend.lowering.inductor_ir import force_direct_launch
from tile_backend.remarks import LOGGER


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module my_model of the README."""
    (source,) = (block for block in blocks(README, "python") if "def example" in block)
    (tmp_path / "my_model.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("my_model")
    monkeypatch.delitem(sys.modules, "my_model")


def said() -> str:
    """The README's report on the example."""
    (text,) = (block for block in blocks(README, "text") if "Sequential, float32" in block)
    return text


@pytest.mark.usefixtures("example")
def test_explain_prints_what_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "my_model:example"]) == 0
    assert capsys.readouterr().out == said()


def test_a_compile_logs_what_the_readme_shows(
    example: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (shown,) = (b for b in blocks(README, "text") if b.startswith("Sequential: "))
    module, inputs = example.example()
    caplog.set_level("DEBUG", logger=LOGGER.name)
    with torch.no_grad(), without_codegen():
        torch.compile(module, backend="tilegym")(*inputs)
    ours = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
    assert "\n".join(ours) + "\n" == shown


def test_the_demo_finds_what_the_readme_shows() -> None:
    """Totals and rows; not the lines of Transformers' files, nor times and differences."""
    config = demo.TYPES["llama"](**demo.SIZES)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.randint(0, demo.SIZES["vocab_size"], (2, 64))
    torch._dynamo.reset()  # which remembers sizes that other tests have used
    with torch.no_grad():
        report = tile_backend.explain(model, ids)
    (shown,) = (block for block in blocks(README, "text") if block.startswith("torch "))

    def without_lines(text: str) -> list[str]:
        return re.sub(r"\.py:\d+ *", ".py ", text).splitlines()

    start = shown.index("tilegym: ")
    assert without_lines(report.to_text()) == without_lines(
        shown[start : shown.index("\noutput: ", start)]
    )


def test_the_counts_of_the_readme(example: Any) -> None:
    module, inputs = example.example()
    with torch.no_grad():
        report = tile_backend.explain(module, *inputs)
    assert f"`report.counts` is `{report.counts}`".replace("'", '"') in README


class _Stop(Exception):
    """Ends a compile when the code is written."""


def test_the_generated_code_has_the_launches_that_the_readme_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lines above them, that is: names of buffers are those of one torch."""
    (shown,) = (block for block in blocks(README, "text") if "_tg.rms_norm(" in block)
    written: list[str] = []

    def write(graph: GraphLowering) -> None:
        written.append(graph.codegen()[0].value)
        raise _Stop

    monkeypatch.setattr(GraphLowering, "compile_to_module", write)
    config = demo.TYPES["llama"](**{**demo.SIZES, "num_hidden_layers": 1})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    compiled = torch.compile(model, backend="tilegym", options={"tilegym.kernels": "always"})
    caches = torch._inductor.config.patch(fx_graph_cache=False)
    other = torch._functorch.config.patch(enable_autograd_cache=False)
    with (
        torch.no_grad(),
        force_direct_launch(),
        caches,
        other,
        pytest.raises(Exception, match="_Stop"),
    ):
        compiled(torch.randint(0, demo.SIZES["vocab_size"], (2, 64)))

    def launches(code: str) -> list[tuple[str, ...]]:
        comment = re.compile(
            r"^ *# tilegym\.(\w+)  (\S+)  (\w+)\.py:\d+.*\n.*?_tg\.(\w+)\(", re.MULTILINE
        )
        return comment.findall(code)

    assert [call[0] for call in launches(shown)] == [call[-1] for call in launches(shown)]
    assert launches(written[0])[: len(launches(shown))] == launches(shown)
