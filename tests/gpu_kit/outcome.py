"""What a step of the check found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """summary: one line. problems: sentences; none means that the step passed.

    rows and facts: for the result file.
    """

    summary: str
    problems: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
