"""A walk-through as text, on a terminal, as a page, and from the command line."""

from __future__ import annotations

import functools
import html.parser
import io
import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.test_docs import ROOT, blocks
from tile_backend import cli, tour_examples, tour_terminal
from tile_backend.lowering.site import Site
from tile_backend.tour import Walkthrough, walkthrough
from tile_backend.tour_stage import LINES, Artefact, Stage, between

GOLDEN = Path(__file__).parent / "golden" / "walkthrough.txt"
FIRST = ("source", "dynamo", "terms", "match", "plan", "gate", "rewrite")
"""The stages that say the same with every torch and on every machine without a GPU."""


@functools.cache
def tour(name: str = "rms_norm") -> Walkthrough:
    example = tour_examples.example(name)
    with torch.no_grad():
        return walkthrough(example.module.cpu(), *(tensor.cpu() for tensor in example.inputs))


def small(*artefacts: Artefact, missing: str = "") -> Walkthrough:
    return Walkthrough("Tiny", (Stage("one", "The only one", "It says.", artefacts, missing),))


# --- excerpts -------------------------------------------------------------------------------------


def test_an_excerpt_says_how_much_it_leaves_out() -> None:
    lines = [f"line {i}" for i in range(LINES + 5)]
    text = small(Artefact("it", "\n".join(lines))).to_text()
    assert text.endswith(f"    line {LINES - 1}\n    ... 5 more lines (to_text(full=True))")
    assert small(Artefact("it", "\n".join(lines))).to_text(full=True).endswith(f"    {lines[-1]}")


def test_an_excerpt_of_the_lines_that_matter() -> None:
    artefact = Artefact("it", "a\n  b\nc\n    d\n", shown=(0, 3, 17))
    assert artefact.excerpt == ["a", "    ...", "    d"]
    assert artefact.left_out == 2
    assert "... 2 more lines (--full)" in small(artefact).to_text(hint="--full")


def test_one_line_that_is_left_out() -> None:
    assert "... 1 more line (" in small(Artefact("it", "a\nb", shown=(0,))).to_text()


def test_a_line_that_would_fill_several_is_cut_in_an_excerpt_only() -> None:
    artefact = Artefact("it", "x" * 500 + "\nb", shown=(0,))
    assert f"    {'x' * 200} ...\n" in small(artefact).to_text()
    assert "x" * 500 in small(artefact).to_text(full=True)


def test_between_two_lines() -> None:
    assert between("a\nb\nc\nd", "b", "c") == (1, 2)
    assert between("a\nb", "b", "z") == (1,)
    assert between("a", "z", "a") is None


def test_what_is_missing_is_said_where_it_would_be() -> None:
    text = small(missing="There is no compiler: install one.").to_text()
    assert "It says.\n\nThere is no compiler: install one." in text


def test_many_other_sites_are_counted() -> None:
    others = tuple(Site("softmax", "fused", f"layers.{i}", "m.py:1", 0) for i in range(30))
    text = Walkthrough("Deep", (), others=others).to_text()
    assert "softmax@layers.23" in text
    assert "softmax@layers.24" not in text
    assert text.endswith("... and 6 more: tile_backend.explain has them all")


# --- the whole text -------------------------------------------------------------------------------


def text_of_the_first_stages() -> str:
    found = tour()
    stages = tuple(stage for stage in found.stages if stage.name in FIRST)
    text = re.sub(r"sm_\d+", "sm_NN", Walkthrough(found.title, stages, found.site).to_text())
    text = text.replace(", on an assumed sm_NN GPU", "")  # where there is none to ask
    return re.sub(r"(tour_models\.py:)\d+", r"\1N", re.sub(r"(?m)^( +>?) +\d+ \|", r"\1 N |", text))


def test_the_words_of_the_tour() -> None:
    assert f"{text_of_the_first_stages()}\n" == GOLDEN.read_text()


def test_headings_are_numbered_and_lines_are_short() -> None:
    text = tour().to_text()
    headings = re.findall(r"^(\d+)\. .*\n-+$", text, re.M)
    assert headings == [str(i + 1) for i in range(len(tour().stages))]
    prose = [line for line in text.split("\n") if line and not line.startswith(" ")]
    assert max(map(len, prose)) <= 96
    assert not re.search(r"[ \t]$", text, re.M)


def test_a_terminal_gets_colours_and_the_same_words() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=300, highlight=False)
    tour_terminal.show(tour(), full=False, hint="--full", console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    for stage in tour().stages:
        assert stage.title in plain
        assert all(artefact.title in plain for artefact in stage.artefacts)
    assert "_tg.rms_norm(arg0_1, arg1_1, 1e-06, 0.0, 'before_weight', out=buf0)" in plain
    assert "(--full)" in plain


@pytest.mark.parametrize(
    ("page", "name"), (("docs/walkthrough.md", "rms_norm"), ("README.md", "silu_mul"))
)
def test_pages_show_what_a_tour_says(page: str, name: str) -> None:
    text = tour(name).to_text()
    shown = [block for block in blocks((ROOT / page).read_text(), "text") if is_of_a_tour(block)]
    assert shown
    for block in shown:
        assert block in f"{text}\n"


def is_of_a_tour(block: str) -> bool:
    """Whether it is indented as an artefact is; everything else starts in the first column."""
    return block.startswith("  ")


# --- the page -------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Whether tags are closed in order, and what a test looks at."""

    VOID = frozenset(("meta", "link", "br", "input"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [v for n, v in attrs if n in ("href", "src", "action") and v]
        assert not [name for name in given if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_needs_no_network() -> None:
    text = tour().to_html()
    page = Page(text)
    assert page.open == []
    assert not {"script", "img", "iframe", "form"} & page.tags
    links = [link for link in page.links if link != "data:,"]  # of the icon: none
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    assert len(set(page.ids)) == len(page.ids)
    assert "url(" not in text
    assert "@import" not in text
    assert "color-scheme: light dark" in text


def test_the_contents_of_the_page_lead_to_every_stage() -> None:
    page = Page(tour().to_html())
    assert page.links[1:] == [f"#{stage.name}" for stage in tour().stages]


def test_the_page_has_every_line_of_every_artefact() -> None:
    page = Page(tour().to_html())
    for stage in tour().stages:
        assert stage.says in page.text
        for artefact in stage.artefacts:
            assert artefact.text.rstrip("\n") in page.text


def test_what_an_excerpt_leaves_out_is_folded() -> None:
    page = small(Artefact("it", "a\nb\nc", shown=(0,))).to_html()
    assert "<summary>all 3 lines</summary>" in page
    assert "<details" not in small(Artefact("it", "a")).to_html()


def test_the_page_escapes_what_programs_are_called() -> None:
    artefact = Artefact("<b>", "+<script>alert(1)</script>\n-a & b", "diff")
    text = Walkthrough("<script>", small(artefact).stages).to_html()
    assert "<script>" not in text
    assert "<b>" not in text
    assert "<ins>+&lt;script&gt;alert(1)&lt;/script&gt;</ins>\n<del>-a &amp; b</del>" in text


# --- the command line -----------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


def loss(x: Tensor) -> Tensor:
    return torch.softmax(x, -1).sum()


OWN = ("walkthrough", "tests.test_tour_views:loss", "--input", "float32[4,8]")


def test_walkthrough_of_a_function_prints_text(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *OWN)
    assert (code, err) == (0, "")
    assert out.startswith("loss: fused softmax, test_tour_views.py:")
    assert "more lines (--full)" in out
    code, full, _ = run(capsys, *OWN, "--full")
    assert code == 0
    assert "(--full)" not in full
    assert len(full) > len(out)


def test_walkthrough_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, text = tmp_path / "deep" / "page.html", tmp_path / "tour.txt"
    code, out, err = run(capsys, *OWN, "--html", str(page), "-o", str(text))
    assert (code, out) == (0, "")
    assert err == f"saved to {page}\nsaved to {text}\n"
    assert Page(page.read_text()).open == []
    assert text.read_text().startswith("loss: fused softmax")
    assert "(--full)" not in text.read_text()


def test_walkthrough_of_a_fusion_with_backward(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "walkthrough", "softmax", "--backward")
    assert code == 0
    assert "backward, in ATen:" in out
    assert "_tg.softmax_grad(" in out


def test_walkthrough_of_a_model_type(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "walkthrough", "llama", "--site", "silu_mul@model.layers.1")
    assert code == 0
    assert out.startswith("LlamaForCausalLM: fused silu_mul at model.layers.1.mlp, modeling_llama")
    assert "# tilegym.silu_mul  model.layers.1.mlp  modeling_llama.py:" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    (
        (("silu_mull",), "unknown walk-through 'silu_mull': the nearest is 'silu_mul'."),
        (("softmax", "--site", "attention"), "no site of Router matches 'attention'."),
        (("nowhere:f",), "unknown target 'nowhere:f': No module named 'nowhere'."),
    ),
)
def test_a_wrong_request_is_one_sentence(
    argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "walkthrough", *argv)
    assert (code, out) == (1, "")
    assert err.startswith(f"tile-backend: {words}")
    assert len(err.splitlines()) == 1


def test_a_terminal_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(tour_terminal, "show", lambda tour, full, hint: shown.append(hint))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(capsys, *OWN)[:2] == (0, "")
    assert shown == ["--full"]
