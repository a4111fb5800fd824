"""The file of traced patterns: nothing in it runs, and nothing damaged in it is believed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch

from tests.disk_faults import cuts, flips
from tile_backend.lowering import pattern_file
from tile_backend.lowering.own_file import DamagedError
from tile_backend.lowering.pattern_file import FORMAT, digest, packed, unpacked
from tile_backend.lowering.trace import Pattern, patterns, signature, size_symbols
from tile_backend.patterns import all_fusions

FUSIONS = tuple(fusion for fusion in all_fusions() if fusion.name in ("rotary", "softmax"))
MADE_BY = "0123456789abcdef"


@pytest.fixture(scope="module")
def made() -> tuple[Pattern, ...]:
    return tuple(pattern for fusion in FUSIONS for pattern in patterns(fusion))


@pytest.fixture(scope="module")
def content(made: tuple[Pattern, ...]) -> bytes:
    return packed(made, MADE_BY)


def seen(patterns: tuple[Pattern, ...]) -> list[Any]:
    """All of them, types included: 1, 1.0 and True are three attributes."""
    return [
        (
            *(p.fusion, p.spelling, p.low, p.size, signature(p)),
            [(name, hole.dtype, hole.shape) for name, hole in p.holes.items()],
            [[type(a) for a in root.attrs] for root in p.roots],
        )
        for p in patterns
    ]


def test_they_come_back(made: tuple[Pattern, ...], content: bytes) -> None:
    assert len(made) > 20
    assert seen(unpacked(content, FUSIONS, MADE_BY)) == seen(made)
    assert packed(unpacked(content, FUSIONS, MADE_BY), MADE_BY) == content


def test_a_hole_is_the_term_that_its_readers_read(content: bytes) -> None:
    for pattern in unpacked(content, FUSIONS, MADE_BY):
        todo, found = list(pattern.roots), set()
        while todo:
            term = todo.pop()
            found.add(term)
            todo += term.args
        assert set(pattern.holes.values()) & found == {t for t in found if t.op == "hole"}


def test_no_flipped_bit_goes_unnoticed(content: bytes) -> None:
    changes = list(flips(content, 600))
    assert len(set(changes)) == 600
    for changed in changes:
        with pytest.raises(DamagedError):
            unpacked(changed, FUSIONS, MADE_BY)


def test_no_cut_goes_unnoticed(content: bytes) -> None:
    for changed in (*cuts(content, 60), content + b" ", content + content):
        with pytest.raises(DamagedError):
            unpacked(changed, FUSIONS, MADE_BY)


def test_nothing_is_parsed_before_the_digest_is_right(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pattern_file.json, "loads", lambda _: pytest.fail("parsed"))
    for changed in flips(content, 8):
        with pytest.raises(DamagedError):
            unpacked(changed, FUSIONS, MADE_BY)


def test_the_file_of_other_code_is_another(content: bytes) -> None:
    with pytest.raises(DamagedError, match="another version of tile-backend or torch"):
        unpacked(content, FUSIONS, "other")
    with pytest.raises(DamagedError, match="not written by this version"):
        unpacked(content.replace(b"patterns 1", b"patterns 2"), FUSIONS, MADE_BY)


RAN: list[str] = []


def run(code: str) -> None:
    RAN.append(code)


class Planted:
    """Unpickling one runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return run, ("code",)


@pytest.mark.parametrize("head", (b"", FORMAT, FORMAT + digest(b"")))
def test_a_planted_pickle_does_not_run(head: bytes) -> None:
    planted = pickle.dumps(Planted())
    pickle.loads(planted)
    assert RAN == ["code"], "it is one that would run"
    RAN.clear()
    for body in (planted, digest(planted) + planted):
        with pytest.raises(DamagedError):
            unpacked(head + body, FUSIONS, MADE_BY)
    assert RAN == []


def change(path: str, value: Any) -> Callable[[Any], None]:
    """Set what is at "kinds/0/1"."""

    def changed(content: Any) -> None:
        *inner, last = path.split("/")
        for part in inner:
            content = content[int(part) if isinstance(content, list) else part]
        content[int(last) if isinstance(content, list) else last] = value

    return changed


CONTRADICTIONS = {
    "no patterns": lambda content: content.pop("patterns"),
    "patterns are a number": change("patterns", 3),
    "an unknown fusion": change("patterns/0/0", "unknown"),
    "a fusion that is no text": change("patterns/0/0", []),
    "an unknown spelling": change("patterns/0/1", 999),
    "the fusion for a spelling": change("patterns/0/1", -1),
    "a spelling that is no number": change("patterns/0/1", True),
    "low is no bool": change("patterns/0/2", 1),
    "a negative size": change("patterns/0/3", -1),
    "a size that is no number": change("patterns/0/3", "3"),
    "no roots": change("patterns/0/4", []),
    "a root that is not there": change("patterns/0/4", [10**9]),
    "a negative root": change("patterns/0/4", [-1]),
    "a root that is no number": change("patterns/0/4", [True]),
    "roots are no list": change("patterns/0/4", 1),
    "holes are no object": change("patterns/0/5", []),
    "an unknown hole": change("patterns/0/5", {"nobody": 0}),
    "a hole that is none": lambda content: change("patterns/0/5", {"x": top(content)})(content),
    "a pattern too short": lambda content: content["patterns"][0].pop(),
    "terms are no list": change("terms", 3),
    "a term that is no number": change("terms/0", "0"),
    "a term that is a bool": change("terms/0", False),
    "a negative kind": change("terms/0", -1),
    "an unknown kind": change("terms/0", 10**9),
    "a later operand": lambda content: content["terms"].extend([operands_kind(content), 10**6]),
    "lacking operands": lambda content: content["terms"].append(operands_kind(content)),
    "an operation that is no text": change("kinds/0/0", 3),
    "an operation that is no word": change("kinds/0/0", "a b"),
    "a negative number of operands": change("kinds/0/1", -1),
    "attributes are no list": change("kinds/0/2", 3),
    "an attribute of a form of its own": change("kinds/0/2", [["unknown", 1]]),
    "an attribute that is an object": change("kinds/0/2", [{"a": 1}]),
    "an attribute without a word": change("kinds/0/2", [[]]),
    "a word that is a list": change("kinds/0/2", [[["size"], "B"]]),
    "an unknown size": change("kinds/0/2", [["size", "__import__"]]),
    "an unknown dtype in an attribute": change("kinds/0/2", [["dtype", "load"]]),
    "a size of what is none": change("kinds/0/2", [["floor", "x", 2]]),
    "a size of plain numbers": change("kinds/0/2", [["floor", 4, 2]]),
    "a division by zero": change("kinds/0/2", [["floor", ["size", "D"], ["number", 0]]]),
    "a number that is none": change("kinds/0/2", [["number", "2"]]),
    "an unknown dtype": change("kinds/0/3", "load"),
    "a dtype that is none": change("kinds/0/3", ["float32"]),
    "a shape that is none": change("kinds/0/4", 3),
    "a negative size in a shape": change("kinds/0/4", [-1]),
    "a kind too long": lambda content: content["kinds"][0].append(0),
}


def top(content: Any) -> int:
    """A term that is an operation."""
    return int(content["patterns"][0][4][0])


def operands_kind(content: Any) -> int:
    """A kind of term with one operand."""
    return next(i for i, kind in enumerate(content["kinds"]) if kind[1] == 1)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_right_digest_is_not_enough(content: bytes, name: str) -> None:
    found = json.loads(content[len(FORMAT) + len(digest(b"")) :])
    CONTRADICTIONS[name](found)
    body = json.dumps(found).encode()
    with pytest.raises(DamagedError):
        unpacked(FORMAT + digest(body) + body, FUSIONS, MADE_BY)


@pytest.mark.parametrize("body", (b"", b"[]", b"3", b"null", b"[" * 100_000, b"\xff", b'"made_by"'))
def test_what_is_no_such_json_is_damaged(body: bytes) -> None:
    with pytest.raises(DamagedError):
        unpacked(FORMAT + digest(body) + body, FUSIONS, MADE_BY)


B, D = size_symbols()["B"], size_symbols()["D"]


@pytest.mark.parametrize(
    "value",
    (
        *(0, -3, 2**70, 1.0, -0.0, 0.1, float("inf"), 5e-324, True, False, None, "", "mean"),
        *((), (1, (2, "a"), None), torch.bfloat16, B, 2 * D, sympy.Integer(3)),
        pattern_file.FloorDiv(D, 2),
        2 * pattern_file.FloorDiv(B, 2),
    ),
    ids=repr,
)
def test_a_value_comes_back_with_its_type(value: Any) -> None:
    text = json.dumps(pattern_file.written(value))
    found = pattern_file.read(json.loads(text))
    assert type(found) is type(value)
    assert repr(found) == repr(value)
    assert found == value


@pytest.mark.parametrize(
    "value",
    (object(), len, b"bytes", {1: 2}, sympy.Symbol("B"), sympy.Symbol("q"), B**2, sympy.pi),
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_form_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError, match="has no form in a file"):
        pattern_file.written(value)
