"""The versions that this release supports, and the checks that say so in one sentence."""

from __future__ import annotations

import re
import sys

from tile_backend.errors import UnsupportedPython, UnsupportedTorch

Version = tuple[int, int]

PYTHON: tuple[Version, Version] = ((3, 11), (3, 14))
TORCH: tuple[Version, Version] = ((2, 11), (2, 15))
TRANSFORMERS: tuple[Version, Version] = ((5, 17), (5, 23))
"""Oldest and newest tested. Other versions of Transformers are allowed, and told by `doctor`."""


def major_minor(version: str) -> Version:
    """(2, 13) for "2.13.0+cpu"; (0, 0) where there is nothing to read."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def within(version: Version, limits: tuple[Version, Version]) -> bool:
    """True from the oldest to the newest, both included."""
    return limits[0] <= version <= limits[1]


def text(version: Version) -> str:
    """As people write it: "2.13"."""
    return f"{version[0]}.{version[1]}"


def check_python(version: Version = sys.version_info[:2]) -> None:
    """Raise `UnsupportedPython` for a version outside the tested range."""
    if not within(version, PYTHON):
        oldest, newest = map(text, PYTHON)
        raise UnsupportedPython(found=text(version), oldest=oldest, newest=newest)


def check_torch(version: str) -> None:
    """Raise `UnsupportedTorch` for a `torch.__version__` outside the tested range."""
    if not within(major_minor(version), TORCH):
        oldest, newest = map(text, TORCH)
        raise UnsupportedTorch(found=version, oldest=oldest, newest=newest)
