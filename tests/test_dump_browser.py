"""index.html of a dump in a real browser: search, filter, keys, links, light, dark, no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser as chromium
from tests.browser import Browser
from tests.report_samples import FACTS, declined, near_miss, norm
from tile_backend.lowering import kernel_use
from tile_backend.lowering.kernel_use import KernelUse
from tile_backend.lowering.kernels import rms_norm
from tile_backend.lowering.site import Decision
from tile_backend.report import Report

NORMS = "001_rms_norm__model.layers.N.input_layernorm"
LAST = "002_rms_norm__model.norm"
GATES = "003_declined_silu_mul__model.layers.N.mlp"
MISS = "004_near-miss_add_rms_norm__model.final"
ALL = [NORMS, LAST, GATES, MISS]
ENTER, ESCAPE, DOWN, UP, TAB = "\ue007", "\ue00c", "\ue015", "\ue013", "\ue004"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a report with each status, a kernel, and layers that are alike."""
    source = kernel_use.source_of(rms_norm.rms_norm)
    use = KernelUse("rms_norm", "rms_norm", source, "sm_90", (6, 1, 1), {}, {"BLOCK": 64})
    kernel = Decision("kernel", "estimated")
    sites = [
        *(norm(f"model.layers.{i}.input_layernorm", index=i) for i in range(32)),
        dataclasses.replace(norm("model.norm", decision=kernel), kernels=(use,)),
        declined("model.layers.0.mlp"),
        declined("model.layers.31.mlp"),
        near_miss("model.final"),
    ]
    texts = {"before": "def Tiny():\n    pass\n", "after": "def Tiny():\n    pass\n"}
    report = Report("Tiny").extended(sites, FACTS, texts)
    return report.save(tmp_path_factory.mktemp("dump"))


@pytest.fixture
def page(browser: Browser, dump: Path) -> Browser:
    browser.open(dump / "index.html")
    browser.complaints()
    return browser


def shown(page: Browser) -> list[str]:
    return [entry.get_attribute("id") for entry in page.all(".entry") if entry.is_displayed()]


def focused(page: Browser) -> Any:
    """The id of the entry whose line has the focus, else that of the element."""
    return page.run(
        "const e = document.activeElement;"
        "return e.matches('.entry > summary') ? e.parentNode.id : e.id"
    )


def is_open(page: Browser, name: str) -> bool:
    return bool(page.run(f"return document.getElementById('{name}').open"))


def test_it_opens_without_complaint_and_without_network(browser: Browser, dump: Path) -> None:
    browser.complaints()
    browser.open(dump / "index.html")
    assert browser.driver.title == "tilegym: Tiny"
    assert shown(browser) == ALL
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [(dump / "index.html").as_uri()]


def test_search_finds_modules_reasons_and_ops(page: Browser) -> None:
    field = page.one("#search")
    for words, expected in (
        ("layers.17", [NORMS]),
        ("EPSILON root", [MISS]),
        ("few rows", [GATES]),
        ("pow_1", [NORMS, LAST, MISS]),
        ("modeling.py:61", [GATES]),
        ("", ALL),
    ):
        field.clear()
        field.send_keys(words, " ")
        assert shown(page) == expected, words
    assert page.one("#shown").text == "4 of 4"


def test_where_nothing_matches_it_says_so(page: Browser) -> None:
    page.one("#search").send_keys("nowhere")
    assert shown(page) == []
    assert page.one("#nothing").is_displayed()
    assert page.one("#shown").text == "0 of 4"


def test_filters_of_status_and_fusion(page: Browser) -> None:
    page.one('button[data-status="fused"]').click()
    assert shown(page) == [GATES, MISS]
    assert page.one('button[data-status="fused"]').get_attribute("aria-pressed") == "false"
    page.one('#fusion option[value="add_rms_norm"]').click()
    assert shown(page) == [MISS]
    page.one('button[data-status="fused"]').click()
    page.one('#fusion option[value="rms_norm"]').click()
    assert shown(page) == [NORMS, LAST]


def test_it_is_usable_with_the_keyboard_alone(page: Browser) -> None:
    page.press("/")
    assert focused(page) == "search"
    page.press("norm", ENTER)
    assert focused(page) == NORMS
    page.press(ENTER)
    assert is_open(page, NORMS)
    page.press(DOWN)
    assert focused(page) == LAST
    page.press(DOWN, DOWN, DOWN)
    assert focused(page) == MISS
    page.press(UP)
    assert focused(page) == LAST
    page.press(ENTER)
    assert is_open(page, LAST)
    page.press(TAB)
    page.press(ESCAPE)
    assert not is_open(page, LAST)
    assert focused(page) == LAST
    page.press(ESCAPE)
    assert page.one("#search").get_attribute("value") == ""
    assert shown(page) == ALL


def test_the_focus_can_be_seen(page: Browser) -> None:
    page.press("/", TAB)
    style = "getComputedStyle(document.activeElement)"
    assert page.run(f"return {style}.outlineStyle") == "solid"
    assert page.run(f"return parseFloat({style}.outlineWidth)") >= 2


def test_a_rewrite_opens_to_its_ops_side_by_side(page: Browser) -> None:
    page.one(f"[id='{LAST}'] > summary").click()
    before, after = page.all(f"[id='{LAST}'] pre")
    assert before.text.startswith("pow_1 = hidden.pow(2)")
    assert "modeling.py:65  h.pow(2).mean(-1)" in before.text
    assert after.text == "rms_1 = torch.ops.tilegym.rms_norm(hidden, norm_weight, 1e-06)"
    assert before.location["y"] == after.location["y"]
    assert "6 x 1 x 1 on sm_90" in page.one(f"[id='{LAST}']").text


def test_the_source_of_a_kernel_is_folded_and_a_link_opens_it(page: Browser) -> None:
    kernel = page.one("#kernels details")
    assert not kernel.get_property("open")
    page.one(f"[id='{LAST}'] > summary").click()
    page.one(f"[id='{LAST}'] a[href^='#kernel']").click()
    assert kernel.get_property("open")
    assert "def rms_norm(" in kernel.text


def test_a_site_is_followed_to_its_rewrite_and_back(page: Browser) -> None:
    page.one("#sites details:first-of-type > summary").click()
    page.one("[id='site:0/rms_norm@model.layers.17.input_layernorm'] a").click()
    assert is_open(page, NORMS)
    link = page.one(f"[id='{NORMS}'] a[href*='layers.17.']")
    page.one("#sites details:first-of-type > summary").click()  # closed again
    link.click()
    row = page.one("[id='site:0/rms_norm@model.layers.17.input_layernorm']")
    assert row.is_displayed()
    assert page.run("return document.activeElement.closest('li').id").endswith("17.input_layernorm")


def test_an_address_with_a_site_or_a_rewrite_opens_it(browser: Browser, dump: Path) -> None:
    browser.open(dump / "index.html", f"#{GATES}")
    assert is_open(browser, GATES)
    browser.open(dump / "index.html", "#site:0/rms_norm@model.layers.9.input_layernorm")
    assert browser.one("[id='site:0/rms_norm@model.layers.9.input_layernorm']").is_displayed()


def luminance(page: Browser, what: str) -> float:
    colour = page.run(f"return getComputedStyle(document.body).{what}")
    red, green, blue = (float(part) for part in colour[4:-1].split(","))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_light_and_dark_follow_the_reader(page: Browser, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.emulate("setEmulatedMedia", features=[feature])
    try:
        paper, ink = luminance(page, "backgroundColor"), luminance(page, "color")
    finally:
        page.emulate("setEmulatedMedia", features=[])
    assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 40 and ink > 200)


def test_it_fits_on_a_phone(page: Browser) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True}
    page.emulate("setDeviceMetricsOverride", **phone)
    try:
        for entry in page.all(".entry > summary"):
            entry.click()
        wide, inside = page.run(
            "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
        )
        before, after = page.all(f"[id='{LAST}'] pre")
        assert before.location["y"] < after.location["y"]
    finally:
        page.emulate("clearDeviceMetricsOverride")
    assert wide <= inside


def test_without_scripts_only_search_is_missing(browser: Browser, dump: Path) -> None:
    browser.emulate("setScriptExecutionDisabled", value=True)
    try:
        browser.open(dump / "index.html")
        assert not browser.one("#finder").is_displayed()
        assert shown(browser) == ALL
        browser.one(f"[id='{LAST}'] > summary").click()
        assert len(browser.all(f"[id='{LAST}'] pre")) == 2
        browser.one(f"[id='{LAST}'] .places a").click()
        assert browser.one("[id='site:0/rms_norm@model.norm']").is_displayed()
    finally:
        browser.emulate("setScriptExecutionDisabled", value=False)


def test_the_graphs_open_in_the_browser(page: Browser) -> None:
    page.one("#graphs a[href='graphs/0_before.py']").click()
    assert "def Tiny():" in page.driver.page_source
