"""The long row of programs: for each number the program, and the way it is compiled.

Most are only analysed and rewritten, which is cheap; the rarer a way is, the more it costs.
"""

from __future__ import annotations

import random

from tests.fuzz.drawing import numbered
from tests.fuzz.program import Program
from tests.fuzz.ways import Capture, Way

CAPTURES: dict[Capture, int] = {"graph": 9400, "dynamo": 450, "aot": 100, "inductor": 50}
"""Of ten thousand programs."""
KERNELS = {"always": 76, "auto": 17, "interpret": 4, "never": 3}
"""Of a hundred."""
VERIFIED = {"off": 90, "first": 8, "always": 2}
DYNAMIC = 30
"""Of a hundred that Dynamo captures."""
DYNAMO_ALONE = ("cond(", ".data = ")
"""In the text of programs that have to be captured by it."""


def drawn(seed: int, number: int) -> tuple[Program, Way]:
    """The program of this number in the row of a seed."""
    choice = random.Random(f"way {seed} {number}")

    def of(weights: dict[str, int]) -> str:
        return choice.choices(list(weights), list(weights.values()))[0]

    captured = of(CAPTURES)  # type: ignore[arg-type]
    kernels, verify = of(KERNELS), of(VERIFIED)
    dynamic = captured != "graph" and choice.randrange(100) < DYNAMIC
    program = numbered(seed, number, dynamic)
    if captured == "graph" and any(word in program.source for word in DYNAMO_ALONE):
        captured = "dynamo"
    return program, Way(captured, kernels, verify)  # type: ignore[arg-type]
