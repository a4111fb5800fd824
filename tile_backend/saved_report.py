"""A report read back from the JSON of a dump, with what a comparison needs of each site.

`load` takes the folder of a dump or its report.json, and raises `DumpError` for anything else.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tile_backend.errors import DumpError
from tile_backend.report_json import SCHEMA_VERSION

WORDS = ("fusion", "status", "module", "source", "spelling")
OBJECTS = {"reason": "text", "decision": "choice"}
"""What may be null, and the word that it has if not."""


@dataclasses.dataclass(frozen=True)
class SavedSite:
    """One site as the JSON has it."""

    fusion: str
    status: str
    module: str
    source: str
    spelling: str
    bindings: Mapping[str, Any]
    reason: Mapping[str, str] | None
    decision: Mapping[str, Any] | None

    @property
    def choice(self) -> str:
        """What runs: "kernel", "reference"; "" where nothing was decided."""
        return str(self.decision["choice"]) if self.decision else ""

    @property
    def obstacle(self) -> str:
        """Why it is not fused: the status and the reason."""
        return f"{self.status}: {self.reason['text']}" if self.reason else self.status


@dataclasses.dataclass(frozen=True)
class SavedReport:
    """sites: by a name that does not change while the model does not, in the order found."""

    title: str
    version: str
    complete: bool
    sites: Mapping[str, SavedSite]


def load(path: Path) -> SavedReport:
    """Raises DumpError."""
    file = path / "report.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DumpError(path=str(file), cause=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise DumpError(path=str(file), cause=f"it is not JSON ({error})") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        found = "no schema_version" if version is None else f"schema_version {version!r}"
        cause = f"it has {found}, and this version reads {SCHEMA_VERSION}"
        raise DumpError(path=str(file), cause=cause)
    try:
        return SavedReport(
            title=word(content["title"]),
            version=word(content["tile_backend"]),
            complete=bool(content["complete"]),
            sites=named(site_of(site) for site in content["sites"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        cause = f"it is no report: {type(error).__name__} {error}"
        raise DumpError(path=str(file), cause=cause) from error


def site_of(found: Any) -> SavedSite:
    """Raises KeyError or TypeError where it is none."""
    words = {name: word(found[name]) for name in WORDS}
    bindings: Mapping[str, Any] = found["bindings"]
    if not isinstance(bindings, dict):
        raise TypeError("bindings are no object")
    for name, inner in OBJECTS.items():
        if found[name] is not None:
            word(found[name][inner])
    return SavedSite(**words, bindings=bindings, reason=found["reason"], decision=found["decision"])


def word(found: Any) -> str:
    """Raises TypeError."""
    if not isinstance(found, str):
        raise TypeError(f"{found!r} is no text")
    return found


def named(sites: Any) -> dict[str, SavedSite]:
    """By fusion and module, numbered where there are several; graphs do not count, since a new
    graph break moves sites from one to another.
    """
    seen: collections.Counter[str] = collections.Counter()
    found = {}
    for site in sites:
        name = f"{site.fusion}@{site.module}"
        seen[name] += 1
        found[f"{name}#{seen[name]}"] = site
    return found
