"""`python -m tests.dump_screenshot`: writes docs/dump.png, the page of a dump as Chromium shows it.

The model is README.md's `my_model` with eight blocks, its kernels run by the interpreter.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

from tests import browser
from tests.lint.source_tree import ROOT

TARGET = ROOT / "docs" / "dump.png"
WIDTH, HEIGHT = 1200, 860
BLOCKS = 8
OPEN = "near-miss_rms_norm"
"""Of the entry that is shown open."""


def dump(folder: Path) -> Path:
    """The dump of the model, under the file name that the README gives it."""
    import torch

    import tile_backend

    (source,) = (
        block.split("```")[0]
        for block in (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")
        if "def example" in block
    )
    (folder / "my_model.py").write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    block = importlib.import_module("my_model").Block
    os.environ["TILEGYM_KERNELS"] = "interpret"
    model = torch.nn.Sequential(*(block() for _ in range(BLOCKS)))
    return tile_backend.explain(model, torch.randn(2, 16, 64)).save(folder / "dump")


def main() -> None:
    """One picture."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        page = dump(folder) / "index.html"
        (entry,) = page.parent.glob(f"*{OPEN}*")
        with browser.started(folder / "profile", WIDTH, HEIGHT) as window:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            window.emulate("setDeviceMetricsOverride", **size)
            window.open(page)
            window.one(f"[id='{entry.name}'] > summary").click()
            window.run("document.activeElement.blur(); scrollTo(0, 0)")
            window.driver.save_screenshot(str(TARGET))


if __name__ == "__main__":
    main()
