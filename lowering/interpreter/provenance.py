"""Which array parameters a program stores to, and which it accesses at all.

Addresses are followed from the parameters through pointer arithmetic, views, branches and loops.
An address whose origin is lost (it went through an integer) may belong to any array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tile_backend.lowering.interpreter.program import (
    ArrayType,
    Block,
    Op,
    Program,
    Source,
    TileType,
    Value,
    ViewType,
)

STORES = {
    "tile_store": "view",
    "store_pointer": "pointer",
    "tile_atomic_rmw": "pointer",
    "tile_atomic_cas": "pointer",
    "tile_atomic_red_view": "view",
}
LOADS = {"tile_load": "view", "load_pointer": "pointer"}

Origins = frozenset[str]


class Accessed(NamedTuple):
    """written: name of a parameter -> line of a store to it. used: names of all that are accessed.

    A list of arrays counts as one.
    """

    written: Mapping[str, Source]
    used: frozenset[str]


def accessed(program: Program) -> Accessed:
    """Follow every address of the program."""
    everything = frozenset(name for name, _ in program.parameters)
    origins: dict[Value, Origins] = {
        value: frozenset((name,)) for name, values in program.parameters for value in values[:1]
    }
    while _spread(program.body, origins):
        pass
    written: dict[str, Source] = {}
    used: set[str] = set()
    for op in program.body.walk():
        name = STORES.get(op.opcode) or LOADS.get(op.opcode)
        if name is not None:
            found = origins.get(op[name]) or everything
            used |= found
            if op.opcode in STORES:
                for each in found:
                    written.setdefault(each, op.source)
    return Accessed(written, frozenset(used))


def _spread(block: Block, origins: dict[Value, Origins]) -> bool:
    """One pass over the ops; whether it found anything new."""
    changed = False
    for op in block.walk():
        for results, inputs in _flows(op):
            for result, source in zip(results, inputs, strict=True):
                if _is_address(result) and not origins.get(source, frozenset()) <= origins.get(
                    result, frozenset()
                ):
                    origins[result] = origins.get(result, frozenset()) | origins[source]
                    changed = True
    return changed


def _flows(op: Op) -> list[tuple[Sequence[Value], Sequence[Value]]]:
    """Pairs of values, such that the first may hold the address of the second."""
    if op.opcode == "loop":
        body: Block = op["body"]
        variables = body.parameters if op["start"] is None else body.parameters[1:]
        initial: tuple[Value, ...] = op["initial_values"]
        flows: list[tuple[Sequence[Value], Sequence[Value]]] = [
            (variables, initial),
            (op.results, initial),
        ]
        for values in _leaving(body, ("continue", "break")):
            flows += [(variables, values), (op.results, values)]
        return flows
    if op.opcode == "ifelse":
        return [
            (op.results, values)
            for block in op.blocks
            for values in _leaving(block, ("end_branch",))
        ]
    addresses = [value for value in op.inputs if _is_address(value)]
    return [([result] * len(addresses), addresses) for result in op.results]


def _leaving(block: Block, opcodes: tuple[str, ...]) -> list[tuple[Value, ...]]:
    """What a block hands on; inner loops have exits of their own, inner branches too."""
    found = []
    for op in block.ops:
        if op.opcode in opcodes:
            found.append(op["outputs"] if op.opcode == "end_branch" else op["values"])
        elif op.opcode == "ifelse" and "end_branch" not in opcodes:
            for inner in op.blocks:
                found += _leaving(inner, opcodes)
    return found


def _is_address(value: Value) -> bool:
    if isinstance(value.type, TileType):
        return value.type.element.kind == "pointer"
    return isinstance(value.type, (ArrayType, ViewType))
