"""The long row of programs: for each number the program, and the way it is compiled.

Most are only analysed and rewritten, which is cheap; the rarer a way is, the more it costs.
"""

from __future__ import annotations

import itertools
import random

from tests.fuzz.drawing import numbered
from tests.fuzz.program import Program
from tests.fuzz.ways import Capture, Way

CAPTURES: dict[Capture, int] = {"graph": 9720, "dynamo": 200, "aot": 60, "inductor": 20}
"""Of ten thousand programs."""
KERNELS = {"always": 76, "auto": 17, "interpret": 4, "never": 3}
"""Of a hundred."""
VERIFIED = {"off": 90, "first": 8, "always": 2}
DYNAMIC = 30
"""Of a hundred that Dynamo captures."""
DYNAMO_ALONE = ("cond(", ".data = ")
"""In the text of programs that have to be captured by it."""
KEPT = 20
"""Of a hundred of these; in the place of the rest are others, of which 30 cost what one does."""


def drawn(seed: int, number: int) -> tuple[Program, Way]:
    """The program of this number in the row of a seed."""
    choice = random.Random(f"way {seed} {number}")

    def of(weights: dict[str, int]) -> str:
        return choice.choices(list(weights), list(weights.values()))[0]

    captured = of(CAPTURES)  # type: ignore[arg-type]
    kernels, verify = of(KERNELS), of(VERIFIED)
    dynamic = captured != "graph" and choice.randrange(100) < DYNAMIC
    program = numbered(seed, str(number), dynamic)
    if captured == "graph" and for_dynamo(program):
        if choice.randrange(100) < KEPT:
            captured = "dynamo"
        else:
            others = (numbered(seed, f"{number}.{attempt}") for attempt in itertools.count())
            program = next(other for other in others if not for_dynamo(other))
    if captured == "dynamo" and program.trains and ".data = " in program.source:
        captured = "aot"  # what an op keeps would be replaced under it; a backend keeps values
    return program, Way(captured, kernels, verify)  # type: ignore[arg-type]


def for_dynamo(program: Program) -> bool:
    return any(word in program.source for word in DYNAMO_ALONE)
