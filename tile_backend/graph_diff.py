"""The graph-diff dump: what was rewritten, readable without any tool.

    report.txt  report.json  index.html
    003_add_rms_norm__model.layers.N.post_attention_layernorm/
        diff.txt     ops taken out with their source lines, the op put in, the sites
        repro.py     runs the site alone on inputs of its shapes: its op, or what was not fused
    graphs/
        0_before.py  0_after.py  0_forward.py  0_backward.py      see graph_files

One folder per distinct rewrite, declined sites and near misses included. Files are replaced whole;
folders of an earlier dump that no longer apply are removed, other files in the folder stay.
"""

from __future__ import annotations

import contextlib
import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tile_backend import graph_files
from tile_backend.atomic_files import refused, write_text
from tile_backend.dump_page import page
from tile_backend.lowering import failure
from tile_backend.lowering.atomic_write import remove_abandoned
from tile_backend.lowering.reason import Reason
from tile_backend.repro_script import script
from tile_backend.rewrite_entry import RewriteEntry, entries

if TYPE_CHECKING:
    from tile_backend.report import Report

ENTRY_FOLDER = re.compile(r"\d{3,}_\w[\w-]*__[\w.-]+")
ENTRY_FILES = frozenset(("diff.txt", "repro.py"))


def save(report: Report, folder: Path) -> Path:
    """Write the dump and return its folder; raises `ReportFolderError`."""
    found = entries(report)
    remove_stale(folder, {entry.name for entry in found})
    repros = frozenset(entry.name for entry in found if save_entry(entry, folder / entry.name))
    write_text(folder / "report.txt", report.to_text() + "\n")
    write_text(folder / "report.json", report.to_json() + "\n")
    graph_files.save(report, folder)
    write_text(folder / "index.html", page(report, found, repros))
    return folder


def text(report: Report) -> str:
    """The diffs of all rewrites, one after the other."""
    return "\n".join(map(diff_of, entries(report)))


def diff_of(entry: RewriteEntry) -> str:
    """Its diff; where that cannot be written, why."""
    diff = failure.tried(f"writing the entry {entry.name}", None, entry.diff)
    return f"{diff}\n" if isinstance(diff, Reason) else diff


def save_entry(entry: RewriteEntry, folder: Path) -> bool:
    """Write one entry; True if it has a repro."""
    write_text(folder / "diff.txt", diff_of(entry))
    repro = failure.instead(None, f"writing the repro of {entry.name}", None, script, entry)
    if repro is not None:
        write_text(folder / "repro.py", repro)
    return repro is not None


def remove_stale(folder: Path, current: set[str]) -> None:
    """Remove entries of an earlier dump, and only what such an entry holds.

    Temporary files of processes that were killed go as well.
    """
    try:
        remove_abandoned(folder)
        for old in list(folder.iterdir()) if folder.is_dir() else ():
            if not ENTRY_FOLDER.fullmatch(old.name) or not old.is_dir():
                continue
            remove_abandoned(old)
            if old.name not in current:
                # Another process that writes the same dump may have been faster.
                with contextlib.suppress(FileNotFoundError):
                    remove_entry(old)
    except (OSError, ValueError) as error:
        raise refused(folder, error) from error


def remove_entry(folder: Path) -> None:
    """Remove an entry's folder unless it holds anything else."""
    files = list(folder.iterdir())
    if {path.name for path in files} <= ENTRY_FILES:
        for path in files:
            path.unlink()
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # another process knows more, and has just written
                raise
