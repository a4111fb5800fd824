"""A spelling, which is plain PyTorch, as pattern terms in the same canonical form as the graph's.

The function is run on meta tensors under a mode that records each torch call through the
vocabulary. Tensor parameters become "hole" terms, number parameters "scalar" terms. Sizes are large
numbers, each the product of primes of its own, so that a size found in an attribute says which
dimension it came from. A spelling is traced once for each combination of dtypes and of absent
optional holes; a combination that the function cannot be run with (None where it multiplies) is not
a spelling.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._sympy.functions import FloorDiv

from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.fusion import Fusion, Scalar, Spelling, Tensor
from tile_backend.lowering.meta_results import MetaResults
from tile_backend.lowering.node import shape
from tile_backend.lowering.terms import NAMED, Term, TermTable
from tile_backend.lowering.vocabulary import FUNCTIONS, METHODS, meaning_of

PRIMES = {
    "B": 1009,
    "K": 1013,
    "S": 1021,
    "L": 1031,
    "N": 1061,
    "D": 4 * 1033,
    "E": 1039,
    "_0": 1049,
    "_1": 1051,
}
GROUPS = 1019
UNRELATED = 2 * 509
"""Sizes of the named dimensions. H is K, or K times GROUPS; R is D times the spelling's ratio, or
UNRELATED where it has none.
"""

LOW = torch.bfloat16
"""Stands for either low-precision dtype in a pattern."""

RESULTS = MetaResults()


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """One traced spelling.

    roots: the returned values, the main one first.
    holes: name -> term, in parameter order (absent optional holes are left out).
    low:   True where LOW stands for the site's low-precision dtype.
    size:  number of operations, for the score of partial matches.
    """

    fusion: Fusion
    spelling: Spelling
    roots: tuple[Term, ...]
    holes: Mapping[str, Term]
    low: bool
    size: int


class Unknown(Exception):
    """The spelling calls something that the vocabulary does not know."""


class Recorder(TorchFunctionMode):
    """Gives every tensor made inside it a term."""

    def __init__(self, table: TermTable) -> None:
        super().__init__()
        self.table = table
        self.terms: dict[int, Term] = {}
        self.alive: list[Any] = []

    def name(self, tensor: torch.Tensor, term: Term) -> None:
        self.terms[id(tensor)] = term
        self.alive.append(tensor)

    def read(self, argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return self.terms[id(argument)]
        if isinstance(argument, (tuple, list)):
            return tuple(self.read(a) for a in argument)
        if isinstance(argument, slice):
            return slice(*(self.read(p) for p in (argument.start, argument.stop, argument.step)))
        return argument

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = RESULTS.of(function, args, kwargs)
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        if not any(isinstance(t, torch.Tensor) for t in tensors):
            return result
        target = target_of(function)
        named = {name: self.read(argument) for name, argument in kwargs.items()}
        found = meaning_of(self.table, target, self.read(args), named, result)
        if found is None:
            raise Unknown(f"{target} has no canonical meaning")
        for tensor, term in zip(
            tensors, found if isinstance(found, tuple) else (found,), strict=False
        ):
            self.name(tensor, term)
        return result


def target_of(function: Any) -> Any:
    """A function as it is; a method or a property getter by name, as in a Dynamo graph."""
    if function in FUNCTIONS:
        return function
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = function.__self__.__name__
    return name if name in METHODS else name.strip("_")


def dtype_choices(hole: Tensor, low: bool) -> tuple[torch.dtype, ...]:
    narrow = LOW if low else torch.float32
    both = (narrow, torch.float32) if low else (torch.float32,)
    return {
        "T": (narrow,),
        "T|f32": both,
        "any": both,
        "f32": (torch.float32,),
        "bool": (torch.bool,),
        "i64": (torch.int64,),
        "c64": (torch.complex64,),
    }[hole.dtype]


def patterns(fusion: Fusion) -> Iterator[Pattern]:
    """Every distinct pattern of a fusion, in the order of its spellings."""
    seen: set[Any] = set()
    for spelling in fusion.spellings:
        for pattern in spelled(fusion, spelling):
            key = (signature(pattern), pattern.low)
            if key not in seen:
                seen.add(key)
                yield pattern


def spelled(fusion: Fusion, spelling: Spelling) -> Iterator[Pattern]:
    names = list(inspect.signature(spelling.function).parameters)
    tensors = [n for n in names if isinstance(fusion.holes[n], Tensor)]
    for low in (False, True):
        choices = []
        for name in tensors:
            hole = fusion.holes[name]
            assert isinstance(hole, Tensor)
            choices.append((*dtype_choices(hole, low), *((None,) if hole.optional else ())))
        for dtypes in itertools.product(*choices):
            pattern = trace(fusion, spelling, names, dict(zip(tensors, dtypes, strict=True)), low)
            if pattern is not None:
                yield pattern


def trace(
    fusion: Fusion,
    spelling: Spelling,
    names: list[str],
    dtypes: Mapping[str, torch.dtype | None],
    low: bool,
) -> Pattern | None:
    table = TermTable()
    recorder = Recorder(table)
    sizes = sizes_for(spelling)
    arguments: dict[str, Any] = {}
    holes: dict[str, Term] = {}
    for name in names:
        hole = fusion.holes[name]
        if isinstance(hole, Scalar):
            arguments[name] = NAMED[hole.type](name)
            continue
        dtype = dtypes[name]
        arguments[name] = sample(hole, dtype, sizes) if dtype else None
        if dtype:
            holes[name] = table.intern("hole", (), (name,), dtype, shape(arguments[name]))
            recorder.name(arguments[name], holes[name])
    try:
        with recorder, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about dtypes that only real code would mix
            returned = spelling.function(**arguments)
    except (TypeError, AttributeError):
        if None in dtypes.values():  # the spelling needs the optional operand
            return None
        raise
    values = returned if isinstance(returned, tuple) else (returned,)
    roots = tuple(recorder.terms[id(v)] for v in values)
    generalise(roots, sizes)
    return Pattern(fusion, spelling, roots, holes, low, size=len(interior(roots)))


def sizes_for(
    spelling: Spelling,
    named: Mapping[str, int] = PRIMES,
    groups: int = GROUPS,
    unrelated: int = UNRELATED,
) -> dict[str, int]:
    """Every named dimension's size for this spelling, see PRIMES."""
    sizes = dict(named)
    sizes["H"] = sizes["K"] * (groups if spelling.grouped else 1)
    ratio = spelling.table_ratio
    sizes["R"] = unrelated if ratio is None else int(sizes["D"] * ratio)
    return sizes


def dimensions(hole: Tensor) -> list[str]:
    """The names of all dimensions; "..." stands for two."""
    return [n for d in hole.dims.split() for n in (("_0", "_1") if d == "..." else (d,))]


def sample(hole: Tensor, dtype: torch.dtype, sizes: Mapping[str, int]) -> torch.Tensor:
    shape = [sizes.get(name) or int(name) for name in dimensions(hole)]
    return torch.empty(shape, dtype=dtype, device="meta")


def generalise(roots: tuple[Term, ...], sizes: Mapping[str, int]) -> None:
    """Replace sizes in attributes by expressions over the dimension names."""
    known = expressions(tuple(sizes.items()))
    for term in interior(roots):
        term.attrs = tuple(known.get(a, a) if type(a) is int else a for a in term.attrs)
        term.cast_of = None  # what a graph may hold is nothing that a pattern asks for


@functools.cache
def size_symbols() -> Mapping[str, sympy.Symbol]:
    """What stands for the size of each named dimension in attributes."""
    return {n: sympy.Symbol(n, integer=True, positive=True) for n in (*PRIMES, "H", "R")}


@functools.cache
def expressions(sizes: tuple[tuple[str, int], ...]) -> Mapping[int, sympy.Expr]:
    """The numbers that stand for sizes, and what each says over the names of dimensions."""
    symbols = size_symbols()
    known: dict[int, sympy.Expr] = {GROUPS: FloorDiv(symbols["H"], symbols["K"])}
    for name, size in sorted(sizes, key=lambda pair: pair[0] == "D"):
        for divisor in (4, 2, 1):
            if size % divisor == 0:
                known[size // divisor] = FloorDiv(symbols[name], divisor)
        known[2 * size] = 2 * symbols[name]
    return known


def interior(roots: tuple[Term, ...]) -> list[Term]:
    """The operations of a pattern: every term that is no hole and no number."""
    found: dict[Term, None] = {}
    todo = list(roots)
    while todo:
        term = todo.pop()
        if term in found or OPERATIONS[term.op].free:
            continue
        found[term] = None
        todo += term.args
    return list(found)


def signature(pattern: Pattern) -> Any:
    """A structural key: equal for spellings that canonicalise to the same terms."""
    memo: dict[Term, Any] = {}

    def key(term: Term) -> Any:
        if term not in memo:
            attrs = tuple(str(a) if isinstance(a, sympy.Expr) else repr(a) for a in term.attrs)
            memo[term] = (term.op, attrs, str(term.dtype), tuple(key(a) for a in term.args))
        return memo[term]

    return tuple(key(root) for root in pattern.roots)
