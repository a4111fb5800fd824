"""Traced patterns as bytes, and back: their terms, but not the fusions that declare them.

Tracing takes seconds, reading some hundredths of one. The bytes are a line that names the format, a
SHA-256 of what follows, and JSON: tables of names, values and terms that refer to each other by
number. They can hold no code, and no text in them is evaluated: fusions and spellings are found by
name and place among those of the reader, dtypes by name, sizes by their structure. Everything is
checked, the SHA-256 before anything is parsed; what is not as it should be is a DamagedError.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import FloorDiv

from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.own_file import DamagedError
from tile_backend.lowering.terms import Term
from tile_backend.lowering.trace import Pattern, size_symbols

FORMAT = b"tile-backend patterns 1\n"
DTYPES = {str(d)[6:]: d for d in vars(torch).values() if isinstance(d, torch.dtype)}
PLAIN = (bool, int, float, str, type(None))
"""What JSON gives back as it was; of these types themselves, not of those derived from them."""
FORMED: Mapping[str, Callable[..., sympy.Expr]] = {"floor": FloorDiv, "times": sympy.Mul}
"""The operations in sizes; of other values FORMS has the names."""
Kind = tuple[int, str, tuple[Any, ...], torch.dtype | None, tuple[int, ...]]
"""How many operands a term has, and then what `Term` takes besides them."""
WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What Python raises where parsed JSON has another structure."""


def packed(patterns: Sequence[Pattern], made_by: str) -> bytes:
    """made_by: names the code that traced them.

    Raises TypeError for a pattern that holds what no built-in one does.
    """
    kinds, terms = dict[str, int](), dict[Term, int]()
    numbers: list[int] = []

    def number(term: Term) -> int:
        if term not in terms:
            operands = [number(operand) for operand in term.args]
            kind = json.dumps(described(term))
            numbers.extend((kinds.setdefault(kind, len(kinds)), *operands))
            terms[term] = len(terms)
        return terms[term]

    found = [
        [
            pattern.fusion.name,
            pattern.fusion.spellings.index(pattern.spelling),
            pattern.low,
            pattern.size,
            [number(root) for root in pattern.roots],
            {name: number(hole) for name, hole in pattern.holes.items()},
        ]
        for pattern in patterns
    ]
    content = {"made_by": made_by, "kinds": [*map(json.loads, kinds)], "terms": numbers}
    body = json.dumps(content | {"patterns": found}, separators=(",", ":")).encode()
    return FORMAT + digest(body) + body


def unpacked(content: bytes, fusions: Iterable[Fusion], made_by: str) -> tuple[Pattern, ...]:
    """Raises DamagedError for bytes that are not `packed` from these fusions by this code."""
    body = content[len(FORMAT) + len(digest(b"")) :]
    if not content.startswith(FORMAT):
        raise DamagedError("it was not written by this version of tile-backend")
    if content != FORMAT + digest(body) + body:
        raise DamagedError("its content is not what was written")
    try:
        found = json.loads(body)
        if found["made_by"] != made_by:
            raise DamagedError("it was written by another version of tile-backend or torch")
        terms = terms_of(found["terms"], [kind_of(*kind) for kind in found["kinds"]])
        known = declarations(fusions)
        return tuple(pattern_of(terms, known, *each) for each in found["patterns"])
    except DamagedError:
        raise
    except WRONG as error:
        raise DamagedError(f"it holds no patterns ({type(error).__name__}: {error})") from None


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n"


def declarations(fusions: Iterable[Fusion]) -> dict[tuple[str, int], Any]:
    """Each fusion as place -1, its spellings by their places."""
    return {
        (fusion.name, place): declared
        for fusion in fusions
        for place, declared in enumerate((fusion, *fusion.spellings), start=-1)
    }


# --- terms ----------------------------------------------------------------------------------------


def described(term: Term) -> list[Any]:
    """All of a term but which its operands are. Raises TypeError."""
    if term.node is not None or not all(type(size) is int for size in term.shape):
        raise TypeError(f"{term} is no term of a pattern")
    dtype = None if term.dtype is None else str(term.dtype)[6:]
    attrs = [written(value) for value in term.attrs]
    return [term.op, len(term.args), attrs, dtype, list(term.shape)]


def kind_of(op: Any, operands: Any, attrs: Any, dtype: Any, shape: Any) -> Kind:
    """The same read back. An operation that no vocabulary gives would match nothing."""
    if not isinstance(op, str) or not op.isidentifier():
        raise DamagedError(f"{op!r} is no operation")
    sizes = tuple(natural(size) for size in shape)
    values = tuple(read(value) for value in attrs)
    return natural(operands), op, values, None if dtype is None else DTYPES[dtype], sizes


def terms_of(numbers: Any, kinds: Sequence[Kind]) -> list[Term]:
    """numbers: for each term its kind, and its operands, which are terms before it."""
    if set(map(type, numbers)) - {int} or min(numbers, default=0) < 0:
        raise DamagedError("a term is not numbered")
    terms: list[Term] = []
    following = iter(numbers)
    for kind in following:
        operands, op, attrs, dtype, shape = kinds[kind]
        args = tuple([terms[number] for number in islice(following, operands)])
        if len(args) != operands:
            raise DamagedError("a term lacks operands")
        terms.append(Term(op, args, attrs, dtype, shape))
    return terms


def pattern_of(
    terms: Sequence[Term],
    known: Mapping[tuple[str, int], Any],
    fusion: Any,
    place: Any,
    low: Any,
    size: Any,
    roots: Any,
    holes: Any,
) -> Pattern:
    """Raises what WRONG names."""
    declared, spelling = known[fusion, -1], known[fusion, natural(place)]
    if type(low) is not bool or not roots or holes.keys() - declared.holes.keys():
        raise DamagedError(f"a pattern of {fusion} contradicts its declaration")
    found = {name: terms[natural(number)] for name, number in holes.items()}
    if not all(hole.op == "hole" and hole.attrs == (name,) for name, hole in found.items()):
        raise DamagedError(f"a hole of {fusion} is none")
    outputs = tuple(terms[natural(number)] for number in roots)
    return Pattern(declared, spelling, outputs, found, low, natural(size))


# --- values ---------------------------------------------------------------------------------------


def written(value: Any) -> Any:
    """An attribute as JSON; what JSON has no form for is a list that begins with a word."""
    if type(value) in PLAIN:
        return value
    if type(value) is tuple:
        return ["tuple", *map(written, value)]
    if isinstance(value, torch.dtype):
        return ["dtype", str(value)[6:]]
    if isinstance(value, sympy.Integer):
        return ["number", int(value)]
    if isinstance(value, sympy.Symbol) and value == size_symbols().get(value.name):
        return ["size", value.name]
    for word, operation in FORMED.items():
        if type(value) is operation:
            return [word, *map(written, value.args)]
    raise TypeError(f"{value!r} has no form in a file")


def read(value: Any) -> Any:
    """What was written. Raises DamagedError, or what WRONG names."""
    if type(value) is not list:
        if type(value) not in PLAIN:
            raise DamagedError(f"{value!r} is no value")
        return value
    word, *parts = value
    if word == "tuple":
        return tuple(map(read, parts))
    if word in FORMED:
        operands = [read(part) for part in parts]
        if not all(isinstance(operand, sympy.Expr) for operand in operands):
            raise DamagedError(f"{value!r} is no size")
        return FORMED[word](*operands)
    (part,) = parts
    if word == "number" and type(part) is int:
        return sympy.Integer(part)
    return {"dtype": DTYPES, "size": size_symbols()}[word][part]


def natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise DamagedError(f"{value!r} is no number of anything")
    return value
