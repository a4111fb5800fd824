"""Whole small programs give what eager gives, and many of their sites were rewritten.

See tests/fuzz. The row of programs is the one that `make fuzz` goes through, under another seed;
hypothesis draws others, and shrinks what fails.
"""

from __future__ import annotations

import collections

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import chunk, finding
from tests.fuzz.drawing import programs
from tests.fuzz.program import Program
from tests.fuzz.tally import Tally
from tests.fuzz.ways import tried

SEED = 1
IN_A_ROW, DRAWN = 220, 30
LEAST = {
    "add_rms_norm": 1,
    "attention": 1,
    "cross_entropy": 1,
    "gelu_mul": 1,
    "layer_norm": 1,
    "linear_cross_entropy": 1,
    "rms_norm": 1,
    "rotary": 1,
    "silu_mul": 1,
    "softmax": 1,
}
"""Sites of each fusion that are rewritten in the row."""
DECLINED = ("interior_value_escapes", "mutation_barrier", "semantics_unsupported")
"""Kinds of reasons that occur there."""


@pytest.fixture(scope="module")
def counted() -> Tally:
    return chunk.tally(SEED, range(IN_A_ROW))


def test_a_row_of_programs_is_right(counted: Tally) -> None:
    wrong = counted.failures
    assert not wrong, "\n".join(failure.script for failure in wrong[:3])
    assert counted.verdicts["right"] > 0.8 * IN_A_ROW


def test_many_of_its_sites_are_rewritten(counted: Tally) -> None:
    by_fusion: collections.Counter[str] = collections.Counter()
    for words, count in counted.rewritten.items():
        by_fusion[words.split()[0]] += count
    short = {name: (by_fusion[name], least) for name, least in LEAST.items()}
    assert all(count >= least for count, least in short.values()), short
    reasons = {words.split()[1] for words in counted.declined}
    assert set(DECLINED) <= reasons


def test_the_row_has_everything_in_it(counted: Tally) -> None:
    """Kinds of statements, ways to compile, and certificates: none is there in name alone."""
    kinds = {kind.split()[0] for kind in counted.statements}
    assert kinds >= {"site", "copy", "alias", "view", "write", "reader", "dead", "layer", "mask"}
    assert kinds >= {"body", "region"}
    assert {way.split()[0] for way in counted.ways} >= {"graph", "dynamo", "aot"}
    assert {way.split()[1] for way in counted.ways} == {"always", "auto", "interpret", "never"}
    assert counted.certificates["certified"]


@settings(
    max_examples=DRAWN,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(program=programs())
def test_programs_that_hypothesis_draws(program: Program) -> None:
    result = tried(program)
    assert result.verdict.right, f"{result.verdict}\n{finding.script(program, result.verdict)}"
