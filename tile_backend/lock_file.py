"""Lock files: the sites a model must have, as JSON that reads well in a review.

    {"schema_version": 1, "title": "LlamaForCausalLM",
     "sites": {"attention": {"model.layers.{0..1}.self_attn": 1}, ...}}

A module path stands for all the layers that it folds; the number is how many sites each of them
has. `python -m tile_backend lock` writes one; the command that does is kept in the file.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tile_backend.atomic_files import write_text
from tile_backend.errors import LockFileError
from tile_backend.folding import fold, unfold

if TYPE_CHECKING:
    from tile_backend.report import Report

SCHEMA_VERSION = 1
COMMAND = "python -m tile_backend lock TARGET"

Sites = Mapping[str, Mapping[str, int]]
"""fusion -> module path -> number of fused sites."""


def fused_sites(report: Report) -> dict[str, dict[str, int]]:
    """The fused sites of a report, counted by fusion and module; both sorted."""
    counted = collections.Counter((site.fusion, site.module) for site in report.fused)
    sites: dict[str, dict[str, int]] = {}
    for (fusion, module), count in sorted(counted.items()):
        sites.setdefault(fusion, {})[module] = count
    return sites


def dumps(report: Report, command: str = COMMAND) -> str:
    """The text of the lock file for a report."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "written_by": command,
        "sites": {fusion: folded(modules) for fusion, modules in fused_sites(report).items()},
    }
    return json.dumps(content, indent=2) + "\n"


def folded(modules: Mapping[str, int]) -> dict[str, int]:
    """Folded paths, each standing for modules with the same number of sites."""
    by_count: dict[int, list[str]] = {}
    for module, count in modules.items():
        by_count.setdefault(count, []).append(module)
    return {path: count for count, paths in by_count.items() for path in fold(paths)}


def save(report: Report, path: str | Path, command: str = COMMAND) -> None:
    """Write the lock file; raises `ReportFolderError` where that is not possible."""
    write_text(Path(path), dumps(report, command))


def load(path: str | Path) -> dict[str, dict[str, int]]:
    """The sites of a lock file, unfolded; raises `LockFileError`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise refused(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise refused(path, f"it is not JSON ({error})") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        found = "no schema_version" if version is None else f"schema_version {version!r}"
        raise refused(path, f"it has {found}, and this version reads {SCHEMA_VERSION}")
    return unfolded(path, content.get("sites"))


def unfolded(path: str | Path, sites: Any) -> dict[str, dict[str, int]]:
    """The checked content of "sites"."""
    counts_ok = isinstance(sites, dict) and all(
        isinstance(modules, dict) and all(type(n) is int and n > 0 for n in modules.values())
        for modules in sites.values()
    )
    if not counts_ok:
        raise refused(path, 'its "sites" are not fusion -> module path -> number of sites')
    try:
        return {
            fusion: {module: n for pattern, n in modules.items() for module in unfold(pattern)}
            for fusion, modules in sites.items()
        }
    except ValueError as error:
        raise refused(path, f"a folded module path cannot be read ({error})") from error


def refused(path: str | Path, cause: str) -> LockFileError:
    """The error, to be raised by the caller."""
    return LockFileError(path=str(path), cause=cause, command=COMMAND)
