"""A headless Chromium that opens a file and says what it asked the network for and complained of.

`make browser` installs it where apt-get is. It has an empty profile of its own and no network use.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BINARIES = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "/usr/bin/chromedriver"
MISSING = "needs Chromium and its driver: make browser"
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip


def found() -> tuple[str, str] | None:
    """The browser and its driver, or None where one is missing."""
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    driver = DRIVER if os.access(DRIVER, os.X_OK) else shutil.which("chromedriver")
    return (binary, driver) if binary and driver else None


class Browser:
    """One window. `driver` is selenium's."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, file: Path, fragment: str = "") -> None:
        self.driver.get("about:blank")  # a new fragment alone would not load the page again
        self.requests()
        self.driver.get(file.as_uri() + fragment)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        (element,) = self.all(selector)
        return element

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(script)

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def emulate(self, command: str, **arguments: object) -> None:
        """One of Emulation.* of the DevTools protocol."""
        self.driver.execute_cdp_cmd(f"Emulation.{command}", arguments)

    def complaints(self) -> list[str]:
        """What the console has said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since this was last asked."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = (m["params"] for m in messages if m["method"] == "Network.requestWillBeSent")
        return [params["request"]["url"] for params in sent]


@contextmanager
def started(profile: Path, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """profile: an empty folder. Skips the test where there is no Chromium."""
    programs = found()
    if programs is None:
        pytest.skip(MISSING)
    from selenium import webdriver

    os.environ.setdefault("SE_OFFLINE", "true")
    options = webdriver.ChromeOptions()
    options.binary_location, path = programs
    for option in (*OPTIONS, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(path))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
