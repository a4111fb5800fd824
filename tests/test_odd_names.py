"""Any sign may stand in the name of a file, a module or a function: what we write still parses.

Python names files and modules freely, and generated code, scripts to run and graphs to read hold
these names in comments, docstrings and strings.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import runpy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tile_backend
from tests.inductor_code import code_of
from tests.report_samples import FACTS, NORM_CALL, declined, near_miss, norm
from tile_backend import divergence, graph_listing, sessions
from tile_backend.errors import ReportNotSaved
from tile_backend.file_names import LONGEST, safe
from tile_backend.folding import fold_to_text
from tile_backend.lowering import python_text
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site import Site, TensorSpec
from tile_backend.lowering.snippet import Snippet
from tile_backend.options import Options
from tile_backend.report import Report
from tile_backend.rewrite_entry import entries

ODD = (
    *('a"""b', "a'''b", 'a"', "a\\", "\\x", "a\\N{b", "a\nb", "a\rb", "a\tb", "a\0b", "a\x7fb"),
    *("a b", "a#b", "{a}", "%s", "class", "²", "ﬁ", "naïve", "你好", "😀", "a\u2028b", "a\udc80b"),
    *("../../a", "/", ".", "..", "a:b", "-", "_", ""),
)
SOURCE = """
import torch


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Late(Norm):
    def forward(self, x):
        return self.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6))
"""


def classes(name: str) -> dict[str, Any]:
    """Of a file that is called so."""
    found: dict[str, Any] = {}
    exec(compile(SOURCE, f"{name.replace(chr(0), '')}.py", "exec"), found)
    return found


FILES = [name for name in ODD if "/" not in name]


class Every(nn.Module):
    """For each name a site that is fused, of a file and under a path with that name; one is not."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        layers = {name.replace(".", "_") or "empty": classes(name)["Norm"]() for name in names}
        self.layers = nn.ModuleDict(layers | {"late": classes(names[0])["Late"]()})

    def forward(self, x: torch.Tensor) -> Any:
        return [layer(x) for layer in self.layers.values()]


def parsed(folder: Path) -> list[Path]:
    """Every Python file of a dump; each is a program."""
    found = sorted(folder.rglob("*.py"))
    for path in found:
        ast.parse(path.read_bytes(), str(path))
    return found


def test_the_dump_of_an_odd_program_parses_and_its_scripts_run(tmp_path: Path) -> None:
    report = tile_backend.explain(Every(FILES), torch.randn(4, 64))
    assert report.counts == {"rms_norm": len(set(FILES) - {"."} | {"_"})}
    report.save(tmp_path)
    files = parsed(tmp_path)
    assert len(files) == len(report.sites) + 2 == len(FILES) + 2
    *fused, late = [path for path in files if path.name == "repro.py"]
    for script in fused[::9]:
        assert "output 0 ok" in runpy.run_path(str(script))["CASE"].check()
    assert "epsilon is added after the root" in runpy.run_path(str(late))["ORIGINAL"].explain()


def odd_site(make: Callable[[str], Site], name: str) -> Site:
    """Every text of it that somebody else has chosen."""
    spec = TensorSpec("float32", (4,), (1,), "cpu", (4,), (1,))
    snippet = Snippet(
        {python_text.identifier(name): spec, "word": name}, (("y = 1", f"{name}.py:7"),), ("y",)
    )
    reason = Reason(ReasonKind.OP_DIFFERS, f"because of {name}", fix=name)
    site = make(name)
    return dataclasses.replace(
        site,
        source=f"{name}.py:7",
        source_path=f"{name}.py",
        snippet=snippet,
        reason=reason if site.status != "fused" else None,
        call=dataclasses.replace(NORM_CALL, arguments=NORM_CALL.arguments | {"word": name}),
        after=(f"{name} = 1",),
    )


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("make", (norm, declined, near_miss), ids=lambda make: make.__name__)
def test_every_script_parses_and_has_the_words(
    name: str, make: Callable[[str], Site], tmp_path: Path
) -> None:
    Report(name, (odd_site(make, name),), (FACTS,)).save(tmp_path)
    (script,) = parsed(tmp_path)
    strings = [node.value for node in ast.walk(ast.parse(script.read_bytes()))
               if isinstance(node, ast.Constant)]  # fmt: skip
    assert name in strings, "an argument that is a word comes back"


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_the_head_of_a_graph_and_of_a_replay_parse(name: str) -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return x + x

    module = torch.fx.symbolic_trace(double)
    text = graph_listing.Before.of(module, name).texts(module, ())["before"]
    ast.parse(text)
    words = {"op": "a", "part": "b", "sha256": "c", "site": python_text.docstring(name)}
    ast.parse(divergence.SCRIPT.format(**words))


def test_generated_code_parses_and_names_every_launch() -> None:
    """Inductor's own comments have names of Dynamo; ours has the user's, above each launch."""
    options = {"tilegym.kernels": "always"}
    compiler = functools.partial(torch.compile, backend="tilegym", options=options)
    model = Every(FILES)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", ReportNotSaved)
        code = code_of(model, torch.randn(4, 64), compiler=compiler)
    ast.parse(code)
    comments = [line for line in code.splitlines() if "# tilegym.rms_norm" in line]
    assert len(comments) == len(model.layers) - 1
    assert all(".py:11" in line for line in comments)


LONG = ("x" * 400, "你" * 400, "😀" * 200, "é" * 399 + "x", "a.b" * 200, "²" * 300)


@pytest.mark.parametrize("name", (*LONG, *ODD), ids=lambda name: ascii(name[:12]))
def test_a_name_is_short_enough_and_one_component(name: str) -> None:
    found = safe(f"001_{name}")
    assert 4 <= len(found.encode()) <= LONGEST
    assert "/" not in found
    assert found.isprintable()
    assert safe(f"001_{name}") == found


@pytest.mark.parametrize("name", LONG, ids=lambda name: ascii(name[:12]))
def test_long_names_that_differ_at_the_end_stay_apart(name: str, tmp_path: Path) -> None:
    assert len({safe(name + end) for end in ("", "a", "b", "ab")}) == 4
    report = Report("f", tuple(norm(f"{name}.{end}") for end in "ab"), (FACTS,))
    folders = {entry.name for entry in entries(report)}
    report.save(tmp_path)
    assert {path.parent.name for path in tmp_path.glob("*/diff.txt")} == folders


def test_texts_that_differ_in_signs_that_are_not_kept_stay_apart() -> None:
    texts = ("a/b norm f.py:1", "a?b norm f.py:1", "a_b norm f.py:1", "a\nb norm f.py:1")
    assert len({safe(text, distinct=True) for text in texts}) == 4
    assert safe(texts[2], distinct=True) == "a_b_norm_f.py_1"


def test_the_folder_of_a_debugged_compile_has_a_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "debug_folder", lambda: tmp_path)
    for title in LONG:
        (folder,) = sessions.dump_folders(Options(), f"1_{title}")
        folder.mkdir()
        assert folder.parent == tmp_path


@pytest.mark.parametrize("name", (*LONG, *ODD, "9" * 5000, "²"), ids=lambda n: ascii(n[:12]))
def test_any_module_path_can_be_folded(name: str) -> None:
    assert fold_to_text([f"layers.{name}.mlp", "layers.1.mlp"])


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_an_identifier_is_one(name: str) -> None:
    found = python_text.identifier(name)
    ast.parse(f"def f({found}): return {found}")
    assert eval(python_text.quoted(name)) == name
