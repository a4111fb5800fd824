"""Habits that ruff and mypy cannot check, each a function from the source tree to findings.

A check is `def name(tree: SourceTree) -> Iterator[Finding]`, listed in `every_check.ALL_CHECKS`.
`python -m tests.lint` runs them; so does `tests/test_habits.py`, which also shows that each bites.
"""

from __future__ import annotations
