"""The graphs and guards of a program that is called several times, with our backend and without.

`more` says what ours has more than Inductor: graphs, guards on sizes, sizes that became numbers. A
program may be called with other sizes each time, marked dynamic or not.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.registry import lookup_backend
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from tests.models.run import inductor_without_codegen
from tile_backend.inductor import without_codegen
from tile_backend.lowering.guards import environment_of

Function = Callable[..., Any]
Calls = Sequence[tuple[Any, ...]]
OURS = "tilegym"


@dataclasses.dataclass
class Record:
    """What each compile asks of the sizes, in the order of compiles."""

    graphs: list[frozenset[str]] = dataclasses.field(default_factory=list)

    def backend(self, name: str, options: Mapping[str, Any]) -> Function:
        """One that notes what is asked by the end of each compile.

        name: "tilegym" or "inductor", or "" for Inductor without generating code.
        """
        inner = lookup_backend(name) if name else inductor_without_codegen

        def compile_and_note(module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
            environment = environment_of(module.graph)
            given = {"options": dict(options)} if options else {}
            compiled = inner(module, inputs, **given)
            self.graphs.append(frozenset(asked(environment)) if environment else frozenset())
            return compiled

        return compile_and_note


def asked(environment: ShapeEnv) -> Iterator[str]:
    """All that the compiled code requires of its symbols."""
    yield from (f"guard {guard.expr}" for guard in environment.guards)
    yield from (f"{a} is {b}" for a, b in environment.replacements.items())
    yield from (f"{symbol} in {range_}" for symbol, range_ in environment.var_to_range.items())
    for asserts in environment.deferred_runtime_asserts.values():
        yield from (f"assert {one.expr}" for one in asserts)


def recorded(
    function: Function,
    calls: Calls,
    name: str,
    options: Mapping[str, Any],
    dynamic: bool | None = None,
) -> Record:
    """name: see `Record.backend`. A call is made with copies: a cache is written to."""
    record = Record()
    torch._dynamo.reset()
    compiled = torch.compile(function, backend=record.backend(name, options), dynamic=dynamic)
    for call in calls:
        compiled(*copy.deepcopy(call))
    return record


def more(
    function: Function,
    calls: Calls,
    options: Mapping[str, Any],
    dynamic: bool | None = None,
    codegen: bool = False,
) -> list[str]:
    """What there is more of with backend="tilegym"; nothing, as it should be."""
    if codegen:
        ours = recorded(function, calls, OURS, options, dynamic)
        theirs = recorded(function, calls, "inductor", {}, dynamic)
    else:
        with without_codegen():
            ours = recorded(function, calls, OURS, options, dynamic)
        theirs = recorded(function, calls, "", {}, dynamic)
    assert theirs.graphs, "nothing was compiled"
    found = []
    if len(ours.graphs) != len(theirs.graphs):
        found.append(f"{len(ours.graphs)} graphs where Inductor has {len(theirs.graphs)}")
    for number, (own, other) in enumerate(zip(ours.graphs, theirs.graphs, strict=False)):
        found += [f"graph {number}: {text}" for text in sorted(own - other)]
    return found
