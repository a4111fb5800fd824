"""The known word that a mistyped one most likely meant, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The most similar of the known words; ties go to the first in order. "" if there is none."""
    candidates = sorted(known)
    matches = difflib.get_close_matches(word, candidates, n=1, cutoff=0.0)
    return matches[0] if matches else ""


def close(word: str, known: Iterable[str]) -> str:
    """As `nearest`, but "" unless the word looks like a typing error of it."""
    matches = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.8)
    return matches[0] if matches else ""
