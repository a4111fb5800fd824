"""The graphs of a dump: `graphs/0_before.py`, `0_after.py`, `0_forward.py` and `0_backward.py`.

They are there where somebody wanted the dump before the compile. `NOT_KEPT` says so otherwise.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tile_backend.atomic_files import refused, write_text
from tile_backend.lowering.atomic_write import remove_abandoned

if TYPE_CHECKING:
    from tile_backend.report import Report

FOLDER = "graphs"
KINDS = ("before", "after", "forward", "backward")
"""The graph before and after the rewrite; the code that Inductor generated for it."""
LABELS = {
    "before": "before",
    "after": "after",
    "forward": "generated forward",
    "backward": "generated backward",
}
NAME = re.compile(rf"\d+_({'|'.join(KINDS)})\.py")
NOT_KEPT = (
    "The graphs before and after the rewrite and the generated code were not kept. Set "
    "tilegym.report_dir (or TILEGYM_REPORT_DIR, or TORCH_COMPILE_DEBUG=1) before compiling, or use "
    "tile_backend.explain for the graphs."
)
NOT_KEPT_FILE = "not_kept.txt"
NOT_COMPILED = "There is no generated code: nothing was compiled."


def save(report: Report, folder: Path) -> None:
    """Write what is known, and remove what an earlier dump left. Raises ReportFolderError."""
    found = {
        f"{index}_{kind}.py": texts[kind]
        for index, texts in enumerate(report.texts)
        for kind in KINDS
        if kind in texts
    }
    if not found and report.graphs:
        found[NOT_KEPT_FILE] = NOT_KEPT + "\n"
    remove_stale(folder / FOLDER, frozenset(found))
    for name, text in found.items():
        write_text(folder / FOLDER / name, text)


def remove_stale(folder: Path, current: frozenset[str]) -> None:
    """Remove what only an earlier dump had. Raises ReportFolderError."""
    try:
        remove_abandoned(folder)
        for old in list(folder.iterdir()) if folder.is_dir() else ():
            ours = NAME.fullmatch(old.name) or old.name == NOT_KEPT_FILE
            if ours and old.name not in current:
                # Another process that writes the same dump may have been faster.
                with contextlib.suppress(FileNotFoundError):
                    old.unlink()
    except (OSError, ValueError) as error:
        raise refused(folder, error) from error


def links(report: Report, index: int) -> list[tuple[str, str]]:
    """What a graph has, as label and path."""
    texts = report.texts[index] if index < len(report.texts) else {}
    return [(LABELS[kind], f"{FOLDER}/{index}_{kind}.py") for kind in KINDS if kind in texts]


def note(report: Report, index: int) -> str:
    """What is missing, and why."""
    texts = report.texts[index] if index < len(report.texts) else {}
    if not texts:
        return NOT_KEPT
    return "" if "forward" in texts else NOT_COMPILED
