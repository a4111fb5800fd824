"""The words of every kind of remark, held against a golden file that a person has read.

After a change of words: `python -m tests.remark_programs`, and read the difference.
"""

from __future__ import annotations

from tests.remark_programs import GOLDEN, text


def test_the_remarks_of_all_programs_are_the_golden_ones() -> None:
    assert list(text()) == GOLDEN.read_text().splitlines()
