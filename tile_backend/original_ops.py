"""Run the ops of a site that was not fused: report on them again, and time them.

The `repro.py` of a near miss or of a declined site holds its ops as a function, and `Original` for
them. Edit the function until the report says that it is fused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.benchmark import Timer

from tile_backend import explanation
from tile_backend.repro import TIMED_SECONDS


@dataclasses.dataclass(frozen=True)
class Original:
    """function: plain PyTorch. arguments: tensors and numbers, in the order of its parameters."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]

    def explain(self) -> str:
        """What the backend finds in the function, as text."""
        return explanation.explain(self.function, *self.arguments.values()).to_text()

    def bench(self) -> str:
        """Median times of a call, eager and compiled with this backend, without gradients."""
        compiled = torch.compile(self.function, backend="tilegym")
        medians = []
        with torch.no_grad():
            for name, function in (("eager", self.function), ("compiled", compiled)):
                function(*self.arguments.values())
                timer = Timer("f(*a)", globals={"f": function, "a": self.arguments.values()})
                median = timer.blocked_autorange(min_run_time=TIMED_SECONDS).median
                medians.append(f"{name} {median * 1e6:.1f} us")
        return ", ".join(medians)

    def run(self) -> str:
        """Report, then time."""
        return f"{self.explain()}\n{self.bench()}"
