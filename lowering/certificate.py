"""What running one site alone, on random inputs, has shown of it.

`certified`: within its error budget, forward and backward. `failed`: outside. `not certified`: it
could not be run, and `text` says why ("too large: ...").
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Certificate:
    """verdict: see the module. text: one sentence with the figures, or the reason.

    used: the part of its budget that the worst output or gradient used; None where that is no
    number.
    """

    verdict: Literal["certified", "failed", "not certified"]
    text: str
    used: float | None = None

    def __str__(self) -> str:
        return f"{self.verdict}: {self.text}"
