"""index.html of a dump: complete, escaped, small, and without anything from elsewhere."""

from __future__ import annotations

import dataclasses
import html.parser
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

import tile_backend
from tests.norm_program import norm as norm_of
from tests.norm_program import x_and_more
from tests.report_samples import FACTS, REPORT, near_miss, norm
from tile_backend.dump_sites import by_layer
from tile_backend.lowering.certificate import Certificate
from tile_backend.lowering.kernel_use import KernelUse
from tile_backend.lowering.site import Decision
from tile_backend.report import Report
from tile_backend.rewrite_entry import entries

MEGABYTES = 1_000_000


class Page(html.parser.HTMLParser):
    """Collects what a test looks at: ids, entries, links, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.entries: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        if given.get("class") == "entry":
            self.entries.append(given["id"] or "")
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(report: Report, folder: Path) -> Page:
    return Page((report.save(folder) / "index.html").read_text())


def assert_links_lead_somewhere(page: Page, folder: Path) -> None:
    inside = [unquote(link[1:]) for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    outside = [link for link in page.links if not link.startswith(("#", "data:"))]
    assert outside
    assert all((folder / unquote(link)).is_file() for link in outside)


def test_the_page_has_every_entry_and_every_site(tmp_path: Path) -> None:
    page = page_of(REPORT, tmp_path)
    assert page.entries == sorted(path.parent.name for path in tmp_path.glob("*/diff.txt"))
    assert sum(name.startswith("site:") for name in page.ids) == len(REPORT.sites)
    assert len(set(page.ids)) == len(page.ids)
    assert REPORT.to_text() in page.text
    assert_links_lead_somewhere(page, tmp_path)


def test_a_site_links_to_its_rewrite_and_back(tmp_path: Path) -> None:
    text = (REPORT.save(tmp_path) / "index.html").read_text()
    site = "site:0/rms_norm@model.layers.2.input_layernorm"
    (row,) = re.findall(rf'<li id="{re.escape(site)}"><a href="#([^"]+)">', text)
    assert row == "001_rms_norm__model.layers.N.input_layernorm"
    entry = text[text.index(f'id="{row}"') :]
    assert 'href="#site%3A0/rms_norm%40model.layers.2.input_layernorm"' in entry


def test_two_sites_of_one_fusion_in_one_module_are_two_places(tmp_path: Path) -> None:
    page = page_of(Report("f").extended([norm("a"), norm("a")], FACTS), tmp_path)
    assert [n for n in page.ids if n.startswith("site:")] == [
        "site:0/rms_norm@a",
        "site:0/rms_norm@a#2",
    ]
    assert_links_lead_somewhere(page, tmp_path)


def test_layers_that_are_alike_are_one_heading() -> None:
    anchors = {id(site): "" for site in REPORT.sites}
    found = by_layer(REPORT, entries(REPORT), anchors)
    assert [(group["name"], group["said"], len(group["layers"])) for group in found] == [
        ("model.layers.{0..3}", "1 site each: rms_norm", 4),
        ("outside of layers", "1 site: rms_norm", 1),
        ("model.layers.{0,3}", "1 site each: silu_mul", 2),
        ("outside of layers", "1 site: add_rms_norm", 1),
    ]


def test_what_models_are_called_is_escaped(tmp_path: Path) -> None:
    Report("<script>alert(1)</script>", (norm("<u>"), near_miss("a&b")), (FACTS,)).save(tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "<script>alert" not in text
    assert "<u>" not in text
    assert "a&amp;b" in text


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    text = (REPORT.save(tmp_path) / "index.html").read_text()
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+/|@import|url\(|<link(?! rel=\"icon\")", text)
    assert not re.findall(r"<(?:script|img|iframe)[^>]* src=", text)


def test_kernels_are_shown_with_launch_and_source(tmp_path: Path) -> None:
    from tile_backend.lowering import kernel_use
    from tile_backend.lowering.kernels import rms_norm

    source = kernel_use.source_of(rms_norm.rms_norm)
    use = KernelUse(
        "rms_norm", "rms_norm", source, "sm_90", (6, 1, 1), {"occupancy": 2}, {"BLOCK": 64}
    )
    site = dataclasses.replace(norm("a", decision=Decision("kernel", "estimated")), kernels=(use,))
    page = page_of(Report("f").extended([site], FACTS), tmp_path)
    assert f"kernel:{source}" in page.ids
    assert "6 x 1 x 1 on sm_90" in page.text
    assert "def rms_norm(" in page.text
    assert_links_lead_somewhere(page, tmp_path)


def test_a_kernel_of_a_user_is_named_without_its_source(tmp_path: Path) -> None:
    use = KernelUse("mine", "mine", "mine.py:3", "sm_90", (1, 1, 1), {}, {})
    site = dataclasses.replace(norm("a", decision=Decision("kernel", "estimated")), kernels=(use,))
    page = page_of(Report("f").extended([site], FACTS), tmp_path)
    assert "mine.py:3" in page.text
    assert not [name for name in page.ids if name.startswith("kernel")]


def test_a_certificate_is_shown(tmp_path: Path) -> None:
    said = Certificate("not certified", "too large: 9 GiB")
    page = page_of(
        Report("f").extended([dataclasses.replace(norm("a"), certificate=said)], FACTS), tmp_path
    )
    assert "not certified too large: 9 GiB" in page.text


def test_ended_and_incomplete_reports_say_so(tmp_path: Path) -> None:
    ended = dataclasses.replace(FACTS, break_reason="print() at f.py:3")
    report = Report("f").extended([], ended).ended("item() at f.py:4")
    page = page_of(report, tmp_path)
    assert "graph 0 ended: print() at f.py:3" in page.text
    assert "incomplete: item() at f.py:4" in page.text
    assert "Nothing was found." in page.text


@pytest.fixture(scope="module")
def many_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 32 layers, as it is on a GPU: every site has its op and its kernel."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=32,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("TILEGYM_KERNELS", "interpret")
        report = tile_backend.explain(model, torch.zeros(1, 8, dtype=torch.int64))
    assert report.counts["attention"] == 32
    return report.save(tmp_path_factory.mktemp("many") / "dump")


@pytest.mark.slow
def test_a_page_of_32_layers_is_small_and_complete(many_layers: Path) -> None:
    file = many_layers / "index.html"
    assert file.stat().st_size < 2 * MEGABYTES
    page = Page(file.read_text())
    assert len([n for n in page.ids if n.startswith("site:")]) == 161
    assert "model.layers.{1..31}" in page.text
    assert "model.layers.31.self_attn" in page.text
    assert "def attention(" in page.text
    assert_links_lead_somewhere(page, many_layers)


@pytest.mark.slow
def test_its_graphs_are_nested_by_module(many_layers: Path) -> None:
    after = (many_layers / "graphs" / "0_after.py").read_text()
    assert after.count("torch.ops.tilegym.attention.interpreted(") == 32
    assert '            with module("model.layers.31.mlp"):  # LlamaMLP\n' in after


def test_a_page_of_a_compile_has_the_graphs(tmp_path: Path, graphs_only: None) -> None:
    torch.compile(norm_of, backend="tilegym", options={"tilegym.report_dir": str(tmp_path)})(
        x_and_more()[0], x_and_more()[2]
    )
    page = Page((tmp_path / "index.html").read_text())
    assert "graphs/0_before.py" in page.links
    assert "There is no generated code" in page.text
