"""Module paths that differ only in layer numbers, written as one: `model.layers.{0..31}.mlp`.

Consecutive numbers become a range, `{0..31}`; others are listed, `{0,31}` or `{0..3,7}`.
`unfold` is the inverse of `fold`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

BRACES = re.compile(r"\{([0-9.,]+)\}")
LONGEST_NUMBER = 18
"""Digits."""
MOST_PATHS = 1_000_000
"""That one folded path may stand for."""


def natural(path: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key under which layer 2 comes before layer 10."""
    parts = re.split(r"[.{},]+", path)
    return tuple((0, int(part), "") if is_short(part) else (1, 0, part) for part in parts)


def ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 7] -> "0..2,7". The numbers are distinct and sorted."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def is_number(part: str) -> bool:
    """True for a component that folding may rebuild from its value: "7", not "07"."""
    return is_short(part) and str(int(part)) == part


def is_short(part: str) -> bool:
    """Whether it is digits, and no more of them than a number of layers has."""
    return part.isdecimal() and len(part) <= LONGEST_NUMBER


def merge_position(paths: Iterable[tuple[str, ...]], position: int) -> list[tuple[str, ...]]:
    """Fold the numbers at one component of paths that are equal everywhere else."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
    kept: list[tuple[str, ...]] = []
    for path in paths:
        if position < len(path) and is_number(path[position]):
            rest = path[:position], path[position + 1 :]
            groups.setdefault(rest, []).append(int(path[position]))
        else:
            kept.append(path)
    for (head, tail), numbers in groups.items():
        text = str(numbers[0]) if len(numbers) == 1 else f"{{{ranges(sorted(numbers))}}}"
        kept.append((*head, text, *tail))
    return kept


def fold(paths: Iterable[str]) -> list[str]:
    """Distinct paths, folded, in natural order. The innermost numbers are folded first."""
    split = [tuple(path.split(".")) for path in dict.fromkeys(paths)]
    for position in reversed(range(max(map(len, split), default=0))):
        split = merge_position(split, position)
    return sorted((".".join(parts) for parts in split), key=natural)


def fold_to_text(paths: Iterable[str]) -> str:
    """All paths in one text, separated by commas; the root, whose path is "", is called so."""
    return ", ".join(path or "(root)" for path in fold(paths))


def unfold(folded: str) -> list[str]:
    """Every path that a folded one stands for. Raises ValueError where a range has no end."""
    pieces = BRACES.split(folded)
    choices = [numbers(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > MOST_PATHS:
        raise ValueError(f"it stands for more than {MOST_PATHS} modules")
    return ["".join(choice) for choice in itertools.product(*choices)]


def numbers(text: str) -> list[str]:
    """The inverse of `ranges`: "0..2,7" gives "0", "1", "2" and "7"."""
    found: list[str] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        span = range(int(first), int(last if dots else first) + 1)
        found.extend(map(str, span[: MOST_PATHS + 1]))
    return found


def template(path: str) -> str:
    """The path with every number replaced by N: the name of a family of identical layers."""
    return ".".join("N" if is_number(part) else part for part in path.split("."))
