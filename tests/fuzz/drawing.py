"""Programs, drawn by hypothesis: several sites at once, and what stands before, between and after.

Open sites take their steps in a drawn order. Between two steps something else may be written; what
it is and how often is drawn for each program, so that some are all sites and some all writes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from tests.fuzz import around, blocks, sites, writes
from tests.fuzz.draft import Draft, Refused
from tests.fuzz.program import Program

EVENTS: dict[str, Callable[[Draft], object]] = {
    "copy": around.copied,
    "alias": around.aliased,
    "write": writes.write,
    "write again": writes.write,
    "view": around.viewed,
    "reader": around.read,
    "dead": around.read_by_nobody,
    "layer": around.layer,
}
MOST_SITES = 4
BLOCKS = (0, 0, 0, 40)
"""In a hundred sites, those in a body of their own, in four kinds of programs."""
LONGEST = 60
"""Events of a program; the sites that are still open then end without company."""
DENSITIES = (0, 10, 25, 40)
"""In a hundred places between steps, those with an event."""
DTYPES = (torch.float32, torch.bfloat16, torch.float32, torch.float16)
LENGTHS = (3, 4, 2, 5, 8, 1, 0)


Choose = Callable[[int], int]


@st.composite
def programs(draw: Callable[[Any], Any], dynamic: bool = False) -> Program:
    """Drawn by hypothesis, which shrinks what fails."""
    return program(lambda count: draw(st.integers(0, count - 1)), dynamic)


def numbered(seed: int, number: str, dynamic: bool = False) -> Program:
    """One of a long row of programs. (Of six that hypothesis draws, five vary the same one.)"""
    return program(random.Random(f"{seed} {number}").randrange, dynamic)


def program(choose: Choose, dynamic: bool = False) -> Program:
    """dynamic: with two sets of sizes, of which no two are alike in one."""
    sizes = drawn_sizes(choose, dynamic)
    s = Draft(choose, sizes[0], DTYPES[choose(4)], dynamic=dynamic)
    s.trains = s.chance(35)
    s.special = s.chance(20)
    s.block = s.pick(BLOCKS)
    events, density = kinds_of_events(s), s.pick(DENSITIES)
    s.writes = bool(density) and "write" in events
    several(s, events, density, s.number(1, MOST_SITES))
    return finished(s, sizes)


def several(s: Draft, events: Sequence[str], density: int, left: int) -> None:
    """left: how many sites there shall be."""
    threads: list[Iterator[None]] = []
    for _ in range(LONGEST):
        if not threads and not left:
            break
        if events and s.chance(density):
            happens(s, s.pick(events), threads)
        elif left and (not threads or s.chance(25)):
            if s.block and s.chance(s.block):
                in_a_body(s, events, density)
            else:
                threads.append(sites.site(s, s.pick(sites.fusions())))
            left -= 1
        else:
            advance(s.pick(threads), threads)
    for thread in threads:
        while thread in threads:
            advance(thread, threads)
    for _ in range(s.number(0, 2) if events and density else 0):
        happens(s, s.pick(events), threads)


def in_a_body(s: Draft, events: Sequence[str], density: int) -> None:
    """One or two sites in a body of their own; no body inside it."""
    block, s.block = s.block, 0
    kinds = [blocks.checkpointed] if s.dynamic else [blocks.checkpointed, blocks.branched]
    with contextlib.suppress(Refused):
        s.pick(kinds)(s, lambda s: several(s, events, density, s.number(1, 2)))
    s.block = block


def drawn_sizes(choose: Choose, dynamic: bool) -> tuple[dict[str, int], ...]:
    def one_of(*options: int) -> int:
        return options[choose(len(options))]

    if dynamic:
        fixed = {"H": 4, "K": 2, "D": 8, "V": 11}
        first = {"B": 3, "S": one_of(5, 7, 13), **fixed}
        second = {"B": one_of(2, 1), "S": one_of(6, 9, 14, 1), **fixed}
        more = one_of(0, 2)
        made = [{**one, "L": one["S"] + more} for one in (first, second)]
    else:
        groups, kv, length = one_of(2, 1, 4), one_of(1, 2), one_of(*LENGTHS)
        made = [{"K": kv, "H": kv * groups, "S": length, "L": one_of(length, length, 5)}]
        made[0] |= {"B": one_of(2, 1, 2, 3, 0), "D": one_of(8, 4, 16, 2, 1), "V": one_of(11, 3, 8)}
    return tuple({**one, "N": one["B"] * one["H"]} for one in made)


def kinds_of_events(s: Draft) -> list[str]:
    """Those that this program has: all, or a few."""
    known = [*EVENTS, *["region"] * s.chance(25)]
    return known if s.chance(50) else [name for name in known if s.chance(45)]


def happens(s: Draft, event: str, threads: list[Iterator[None]]) -> None:
    with contextlib.suppress(Refused):
        if event == "region":
            s.pick((blocks.without_grad, blocks.autocast))(s, lambda s: steps(s, threads))
        elif s.trains and event == "write" and s.chance(25):
            blocks.without_grad(s, writes.write)
        else:
            EVENTS[event](s)


def steps(s: Draft, threads: list[Iterator[None]]) -> None:
    """Some steps of the open sites."""
    for _ in range(s.number(1, 4)):
        if threads:
            advance(s.pick(threads), threads)


def advance(thread: Iterator[None], threads: list[Iterator[None]]) -> None:
    """One more step. A site that torch refuses stays as far as it came."""
    try:
        next(thread)
    except (StopIteration, Refused):
        threads.remove(thread)


def finished(s: Draft, sizes: tuple[dict[str, int], ...]) -> Program:
    """The program returns what its sites gave, and some of everything else."""
    wanted = [n for n in dict.fromkeys(s.made) if n in s.values]
    others = [n for n in s.values if n not in wanted and s.values[n].dtype.is_floating_point]
    for _ in range(s.pick((0, 0, 1, 2)) if others else 0):
        name = s.pick(others[::-1])
        wanted += [] if name in wanted else [name]
    return Program(tuple(s.inputs), tuple(s.statements), tuple(wanted), sizes, trains=s.trains)
