"""The page of a walk-through in a browser: no network, keys, narrow windows, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser as chromium
from tests.browser import Browser
from tile_backend.tour import Walkthrough
from tile_backend.tour_stage import Artefact, Stage

ENTER, TAB = "\ue007", "\ue004"
LONG = "\n".join(f"line {i} " + "x" * 200 for i in range(60))
TOUR = Walkthrough(
    "Tiny",
    (
        Stage(
            "source", "The source", "It says. " * 40, (Artefact("a.py", "> 1 | here\n  2 | not"),)
        ),
        Stage("rewrite", "Before and after", "It changes.", (Artefact("diff", "-a\n+b", "diff"),)),
        Stage(
            "code", "The code", "It runs.", (Artefact("code", LONG, "python"),), "There is none."
        ),
    ),
    stopped="Unsupported at a.py:2",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TOUR.save(tmp_path_factory.mktemp("tour") / "tour.html")


@pytest.fixture
def page(browser: Browser, file: Path) -> Browser:
    browser.open(file)
    browser.complaints()
    return browser


def test_it_opens_without_complaint_and_without_network(browser: Browser, file: Path) -> None:
    browser.complaints()
    browser.open(file)
    assert browser.driver.title == "Tiny: nothing is found"
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [file.as_uri()]


def test_what_is_shown_is_what_the_tour_has(page: Browser) -> None:
    titles = [heading.text for heading in page.all("h2")]
    assert titles == [
        *("1. The source", "2. Before and after", "3. The code", "The rest of this graph"),
    ]
    assert page.one("mark").text == "> 1 | here"
    assert (page.one("del").text, page.one("ins").text) == ("-a", "+b")
    assert page.one(".notice").text == "There is none."
    assert page.one("#others pre").text.endswith("Unsupported at a.py:2")


def test_the_contents_lead_to_a_stage(page: Browser) -> None:
    page.one('nav a[href="#code"]').click()
    assert page.run("return location.hash") == "#code"
    top = page.run("return document.getElementById('code').getBoundingClientRect().top")
    assert top < page.run("return innerHeight") / 2


def test_what_is_left_out_opens_with_the_keyboard(page: Browser) -> None:
    details = page.one("details")
    assert not page.run("return document.querySelector('details').open")
    for _ in range(20):
        page.press(TAB)
        if page.run("return document.activeElement.tagName") == "SUMMARY":
            break
    assert page.run("return document.activeElement.textContent") == "all 60 lines"
    page.press(ENTER)
    assert page.run("return document.querySelector('details').open")
    assert "line 59" in details.text


def test_a_narrow_window_scrolls_code_and_nothing_else(page: Browser) -> None:
    page.emulate(
        "setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=False
    )
    try:
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        wide = "const e = document.querySelector('#code pre'); return e.scrollWidth > e.clientWidth"
        assert page.run(wide)
    finally:
        page.emulate("clearDeviceMetricsOverride")


def test_light_and_dark_follow_the_reader(page: Browser) -> None:
    seen = []
    for scheme in ("light", "dark"):
        page.emulate(
            "setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        style = "getComputedStyle(document.body)"
        seen.append(page.run(f"return [{style}.backgroundColor, {style}.color]"))
    page.emulate("setEmulatedMedia", features=[])
    (light, ink), (dark, chalk) = seen
    assert brightness(light) > brightness(ink) + 100
    assert brightness(chalk) > brightness(dark) + 100


def brightness(colour: str) -> float:
    numbers = [float(n) for n in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(numbers) / 3
