"""`sampled`: about every n-th case, always the same ones, and none of what has to be there lost."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import kernel_cases, sampling
from tile_backend.patterns import all_fusions

pytest_plugins = ("pytester",)
HERE = Path(__file__).parent


def cases(*sizes: int) -> dict[str, tuple[tuple[str, int], ...]]:
    """Every combination of as many values for each parameter, and what it covers: its values."""
    names = "abcdef"[: len(sizes)]
    return {
        f"test.py::test[{'-'.join(map(str, values))}]": tuple(zip(names, values, strict=True))
        for values in itertools.product(*map(range, sizes))
    }


@pytest.mark.parametrize("every", (2, 3, 10))
def test_about_every_nth_is_kept(every: int) -> None:
    given = cases(40, 50)
    kept = sampling.chosen(given, every)
    assert kept <= set(given)
    assert 0.8 < len(kept) * every / len(given) < 1.3


@pytest.mark.parametrize("sizes", ((1,), (1, 1), (7, 3), (2, 60), (5, 4, 3)))
def test_every_value_keeps_a_case(sizes: tuple[int, ...]) -> None:
    given = cases(*sizes)
    kept = sampling.chosen(given, 10**9)
    assert {part for name in kept for part in given[name]} == {
        part for parts in given.values() for part in parts
    }
    assert len(kept) <= sum(sizes), "a case that covers nothing new is left out"


def test_one_is_kept_where_nothing_has_to_be_covered() -> None:
    assert len(sampling.chosen(dict.fromkeys(cases(9), ()), 10**9)) == 1
    assert sampling.chosen({}, 3) == set()


def test_the_choice_is_of_names_alone() -> None:
    """Whatever the order, and whatever else there is."""
    given = cases(8, 9)
    backwards = dict(reversed(given.items()))
    assert sampling.chosen(given, 4) == sampling.chosen(backwards, 4)
    few = dict.fromkeys(given, ())
    more = {**few, **{f"other{i}": () for i in range(99)}}
    assert sampling.chosen(few, 4) == sampling.chosen(more, 4) & set(given)


EXAMPLE = """
import pytest

class Unhashable:
    __hash__ = None
    def __init__(self, n):
        self.n = n

@pytest.mark.sampled(1000)
@pytest.mark.parametrize("b", "uvwxyz")
@pytest.mark.parametrize("a", [Unhashable(n) for n in range(5)], ids=lambda a: str(a.n))
def test_many(a, b):
    pass

@pytest.mark.sampled(1000, each=lambda n: [n % 2])
@pytest.mark.parametrize("n", [*range(8), pytest.param(9, marks=pytest.mark.full)])
def test_two(n):
    pass

@pytest.mark.parametrize("n", range(4))
def test_all(n):
    pass
"""
CONFTEST = """
import pytest
from tests import sampling

def pytest_configure(config):
    config.addinivalue_line("markers", "full: ")
    config.addinivalue_line("markers", "sampled(n): ")

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    sampling.mark(items)
"""


def ran(pytester: pytest.Pytester, *arguments: str) -> Counter[str]:
    """How many cases of each test."""
    done = pytester.inline_run("-q", "-p", "no:xdist", *arguments)
    passed, skipped, failed = done.listoutcomes()
    assert not [*skipped, *failed]
    return Counter(report.nodeid.partition("::")[2].partition("[")[0] for report in passed)


def test_what_m_selects(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    file = pytester.makepyfile(EXAMPLE)
    quick = ran(pytester, "-m", "not full")
    assert quick["test_all"] == 4
    assert quick["test_two"] == 2
    assert 6 <= quick["test_many"] <= 10
    everything = {"test_many": 30, "test_two": 9, "test_all": 4}
    assert ran(pytester, "-m", "") == ran(pytester, "-m", sampling.ALL_CASES) == everything
    named = f"{file.name}::test_two[5]"
    assert ran(pytester, "-m", "not full", named) == {"test_two": 1}, "what is named runs"


# --- the families themselves ----------------------------------------------------------------------


def quick(session: pytest.Session, file: str) -> Iterator[tuple[str, Any]]:
    """The name and the arguments of each case that `make test` runs."""
    module = pytest.Module.from_parent(session, path=HERE / file)
    items = list(session.genitems(module))
    sampling.mark(items)
    for item in items:
        if item.get_closest_marker("full") is None and isinstance(item, pytest.Function):
            yield item.originalname, getattr(item, "callspec", None) and item.callspec.params


def test_every_op_is_interpreted(request: pytest.FixtureRequest) -> None:
    """In float32 and in low precision, contiguous and not."""
    found = list(quick(request.session, "test_kernels_interpreted.py"))
    pairs = {
        (given["op"], given["dtype"].itemsize)
        for name, given in found
        if name == "test_kernels_are_within_budget"
    }
    assert pairs == set(itertools.product(kernel_cases.OPS, (2, 4)))
    modes = [given for name, given in found if name == "test_every_mode_is_within_budget"]
    assert {given["contiguous"] for given in modes} == {True, False}
    assert 0 < len(modes) < 300


def test_every_fusion_is_found_and_keeps_its_numbers(request: pytest.FixtureRequest) -> None:
    """However it is spelt, respelled, with symbols for sizes, and in training."""
    fusions = {fusion.name for fusion in all_fusions()}
    tests: dict[str, set[str]] = {}
    for file in ("test_core_spellings.py", "test_core_variations.py"):
        for name, given in quick(request.session, file):
            tests.setdefault(name, set()).add(given["pair"][0].name)
    for name in (
        "test_a_spelling_becomes_its_op",
        "test_a_spelling_is_found_whatever_the_outer_sizes",
        "test_training_through_torch_compile",
    ):
        assert tests[name] == fusions, name
    supported = {f.name for f in all_fusions() if any(s.declined is None for s in f.spellings)}
    for name in (
        "test_another_spelling_is_found",
        "test_any_program_keeps_its_numbers",
        "test_gradients_cut_anywhere",
    ):
        assert tests[name] == supported, name
