"""Sites of the fusions inside a program, one step at a time.

A spelling is taken apart into its single calls, each a statement of the program, so that others can
stand between them. A site is a generator: it writes a step and yields. Nothing here names a fusion
but for the shapes that its operands have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from tests.core_material import Case, case_of, one_dtype_each, spellings
from tests.fuzz import around, masks, names, writes
from tests.fuzz.capture import REAL, Calls, Traced, Tracer
from tests.fuzz.draft import REFUSALS, Dims, Draft, Refused
from tile_backend.lowering import python_text
from tile_backend.lowering.fusion import Tensor as Hole
from tile_backend.lowering.trace import spelled
from tile_backend.patterns import all_fusions

Thread = Iterator[None]
BY_REFERENCE = 8
"""In a hundred sites, those whose spelling is called as it is."""
IN_PLACE_STEPS = 6
"""In a hundred arithmetic steps, those that write to their first operand instead."""
STALE = 12
"""In a hundred operands of a program that writes, copies of what is then written to."""
SHARED = 60
"""In a hundred steps that the program has taken before, those that are not taken again."""
ODD_NUMBERS: Mapping[str, tuple[float, ...]] = {
    "scale": (-0.5, 0.0, 4.0),
    "eps": (0.0, 2.0),
    "softcap": (-3.0, 0.25),
    "label_smoothing": (0.0, 1.0),
}
"""What a model seldom has in the place of a number, and may have."""
ODD = 12
"""In a hundred sites, those that have them."""
IN_PLACE = {
    operator.add: "+=",
    operator.mul: "*=",
    operator.sub: "-=",
    operator.truediv: "/=",
}
LEADING: tuple[Dims, ...] = (("B", "S"), ("B", "H", "S"), ("S",))
"""What stands in front of the features."""
TABLE_LEADING: tuple[Dims, ...] = (("S",), (1, "S"), (1, 1, "S"), ("B", 1, "S"))
MASKS = ("mask", "masked", "visible", "mask3", "masked3", "visible3")


@functools.cache
def fusions() -> tuple[str, ...]:
    return tuple(fusion.name for fusion in all_fusions())


@functools.cache
def cases(fusion: str, dtype: torch.dtype) -> tuple[Case, ...]:
    """Every spelling of a fusion with its dtypes and absent operands, float32 or low precision."""
    low = dtype is not torch.float32
    known = [(f, s) for f, s in spellings() if f.name == fusion]
    made = (case_of(p, dtype) for f, s in known for p in spelled(f, s) if p.low is low)
    return tuple(repeatable(case) for case in made if one_dtype_each(case))


def repeatable(case: Case) -> Case:
    """Dropout of nothing: two runs must give the same."""
    scalars = {n: 0.0 if n == "dropout" else number for n, number in case.scalars.items()}
    return dataclasses.replace(case, scalars=scalars)


def site(s: Draft, fusion: str) -> Thread:
    """One site of a fusion. Its results are there for whatever comes behind."""
    case = with_odd_numbers(s, s.pick(cases(fusion, s.dtype)))
    leading = s.pick(LEADING)
    given: dict[str, str] = {}
    for name, dtype in case.dtypes.items():
        if dtype is None:
            continue
        if name in MASKS:
            given[name] = yield from masks.mask(s, name, case.spelling.title.startswith("sdpa"))
        else:
            given[name] = s.need(name, dims_of(s, case, name, leading), dtype, kind_of(name))
        if s.writes and s.chance(STALE):
            given[name] = stale(s, given[name])
    s.hot += given.values()
    s.operands += given.values()
    if s.dynamic or s.chance(BY_REFERENCE):
        s.results(referred(s, case, given))
    else:
        yield from unrolled(s, case, given)


def with_odd_numbers(s: Draft, case: Case) -> Case:
    odd = [name for name in case.scalars if name in ODD_NUMBERS]
    if not odd or not s.chance(ODD):
        return case
    return dataclasses.replace(
        case, scalars={**case.scalars, **{name: s.pick(ODD_NUMBERS[name]) for name in odd}}
    )


def stale(s: Draft, x: str) -> str:
    """A copy for an operand; what it is a copy of is written to."""
    with contextlib.suppress(Refused):
        copy = around.copied(s, lambda name: name == x)
        writes.write(s, lambda name: name == x)
        return copy
    return x


def kind_of(name: str) -> str:
    return {"weight": "gain", "labels": "labels"}.get(name, "normal")


def dims_of(s: Draft, case: Case, name: str, leading: Dims) -> Dims:
    """The shape of an operand in the sizes of the program."""
    hole = case.fusion.holes[name]
    assert isinstance(hole, Hole)
    grouped, ratio = case.spelling.grouped, case.spelling.table_ratio
    loss = "labels" in case.fusion.holes
    table = s.sizes["D"] // 4 if ratio is None else int(s.sizes["D"] * ratio)
    meant: dict[str, Dims] = {
        "...": leading if not loss else ("B", "S"),
        "K": ("K",) if grouped else ("H",),
        "E": ("V",) if loss else ("D",),
        "R": ("D",) if table == s.sizes["D"] else (table,),
        "1": (1,),
    }
    if "R" in hole.dims:
        meant["..."] = s.pick([d for d in TABLE_LEADING if len(d) <= len(leading)])
    return tuple(d for word in hole.dims.split() for d in meant.get(word, (word,)))


def referred(s: Draft, case: Case, given: Mapping[str, str]) -> list[str]:
    """The spelling as a function of the program."""
    absent = {name: None for name, dtype in case.dtypes.items() if dtype is None}
    scalars = {**absent, **case.scalars}
    words = [f"{name}={s.at(value)}" for name, value in given.items()]
    words += [f"{name}={value!r}" for name, value in scalars.items()]
    text = f"{names.title(case.fusion.name, case.spelling.title)}({', '.join(words)})"
    kind = f"site {case.fusion.name}"
    if isinstance(s.evaluated(text), tuple):
        return s.lets(["y", "total"], text, kind)
    return [s.let("y", text, kind)]


def unrolled(s: Draft, case: Case, given: Mapping[str, str]) -> Thread:
    """The calls that the spelling makes, one by one."""
    known = {name: s.values[value] for name, value in given.items()}
    graph = calls_of(case, known)
    named: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            named[node] = given[node.name]
        elif node.op == "output":
            s.results([named[n] for n in node.args[0]])
        elif isinstance(node.meta[REAL], (tuple, list)):
            parts(s, case, node, named)
            yield
        elif node not in named:
            named[node] = step(s, case, node, named)
            yield


def step(s: Draft, case: Case, node: fx.Node, named: Mapping[fx.Node, str]) -> str:
    """One call as a statement; shared with one that was made before, or in place."""
    kind = f"site {case.fusion.name}"
    text = python_text.expression(node, lambda n: s.at(named[n]))
    if node.target == "repeat_interleave" and s.chance(40):
        source = named[node.args[0]]  # type: ignore[index]
        text = f"{source}[:, :, None].expand(-1, -1, {node.args[1]}, -1, -1).flatten(1, 2)"
    made = next((x for x in reversed(s.statements) if x.text.endswith(f" = {text}")), None)
    earlier = made.text.split(" = ")[0] if made else ""
    if earlier in s.values and s.chance(SHARED):
        return earlier
    first = named.get(node.args[0]) if node.args else None  # type: ignore[arg-type]
    if node.target in IN_PLACE and first and s.own(first) and s.chance(IN_PLACE_STEPS):
        other = python_text.literal(node.args[1], lambda n: s.at(named[n]))
        with contextlib.suppress(Refused):
            s.do(f"{first} {IN_PLACE[node.target]} {other}", kind)
            return first
    return s.let(python_text.identifier(str(node.name)).rstrip("_0123456789"), text, kind)


def parts(s: Draft, case: Case, node: fx.Node, named: dict[fx.Node, str]) -> None:
    """A call that gives several tensors: each gets a name."""
    users = list(node.users)
    text = python_text.expression(node, lambda n: s.at(named[n]))
    hints = ["part"] * len(node.meta[REAL])
    made = s.lets(hints, text, f"site {case.fusion.name}")
    for user in users:
        named[user] = made[user.args[1]]  # type: ignore[index]


_graphs: dict[Any, fx.Graph] = {}


def calls_of(case: Case, given: Mapping[str, torch.Tensor]) -> fx.Graph:
    """What the spelling calls on tensors of these shapes."""
    key = (str(case), *((tuple(t.shape), t.dtype) for t in given.values()))
    if key not in _graphs:
        arguments, tracer = (Tracer(lambda tensor: tensor, "") for _ in range(2))
        proxies = {
            name: Traced(arguments.placeholder(name, tensor), arguments)
            for name, tensor in given.items()
        }
        try:
            with torch.no_grad(), tracer.on(), Calls():
                results = case.function(**proxies)
        except REFUSALS as error:
            raise Refused(str(error)) from None
        several = isinstance(results, tuple)
        tracer.graph.output([r.node for r in (results if several else (results,))])
        _graphs[key] = tracer.graph
    return _graphs[key]
