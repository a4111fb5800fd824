"""A graph as Python for a person to read, nested by module, types and source lines beside it.

    with module("model.layers.0.mlp"):  # LlamaMLP
        gate = torch.nn.functional.linear(x, self["model.layers.0.mlp.gate_proj.weight"])  # ...

The text parses, so that editors fold and colour it; it is not meant to run. Values bear the names
that reports use. Bodies of higher-order ops come first, as functions.

`rows` reads the graph, which may change or vanish afterwards; `text` writes what was read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx

from tile_backend.lowering import input_names, provenance, python_text
from tile_backend.lowering.node import line, spec, value

COMMENT_COLUMN = 88
"""Where comments begin, unless a statement is longer."""
WIDEST = 32
"""Characters to which marks, types and source lines are padded."""
Module = tuple[str, str]
"""Path and class name."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One op. part: the body that it is in, "" for the graph itself.

    modules: those around it, outermost first.
    """

    part: str
    name: str
    text: str
    result: str
    source: str
    code: str
    modules: tuple[Module, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Differs from that of every other op of a graph."""
        return self.part, self.name


Marks = Mapping[tuple[str, str], str]
"""Row.key -> the mark of that row."""


def rows(module: fx.GraphModule, prefix: str = "") -> list[Row]:
    """Every node of the graph and of its bodies, in program order, bodies first.

    prefix: path of the module whose function this is, where that is not the compiled one.
    """
    found: list[Row] = []
    for name, body in bodies(module):
        found += (row(node, name, prefix) for node in body.graph.nodes)
    return found


def bodies(module: fx.GraphModule, name: str = "") -> Iterator[tuple[str, fx.GraphModule]]:
    """The graph and what its get_attr nodes hold, innermost first."""
    for node in module.graph.find_nodes(op="get_attr"):
        held: object = module
        for part in str(node.target).split("."):
            held = getattr(held, part, None)
        if isinstance(held, fx.GraphModule):
            yield from bodies(held, f"{name}_{node.target}".strip("_"))
    yield name, module


def row(node: fx.Node, part: str, prefix: str) -> Row:
    if node.op == "output":
        results = python_text.literal(node.args[0], called)
        return Row(part, node.name, f"return {results}", "", "", "")
    if node.op == "placeholder":
        return Row(part, node.name, called(node), result_of(node), "", "")
    around = modules_of(node, prefix)
    where, statement = line(node), python_text.statement(node, called)
    return Row(part, node.name, statement, result_of(node), where.source, where.code, around)


def called(node: fx.Node) -> str:
    """A value's name; `self["model.norm.weight"]` for what a module holds."""
    name = input_names.name(node)
    if name == node.name:
        return python_text.identifier(name)
    return f"self[{python_text.quoted(name.removeprefix('self.'))}]"


def result_of(node: fx.Node) -> str:
    """`float32[2, 64]`, or "" where there is no one tensor."""
    fake = value(node)
    return str(spec(fake)) if isinstance(fake, torch.Tensor) else ""


def modules_of(node: fx.Node, prefix: str) -> tuple[Module, ...]:
    """The modules whose code made the node; the compiled root is left out."""
    stack = node.meta.get("nn_module_stack") or {}
    found: dict[str, str] = {}
    for path, kind in stack.values():
        known = f"{prefix}.{provenance.normalised_path(str(path))}".strip(".")
        if known:
            found[known] = str(getattr(kind, "__name__", kind)).rsplit(".", 1)[-1]
    return tuple(found.items())


def text(title: str, head: str, listed: Sequence[Row], marks: Marks) -> str:
    """The whole file. head: what stands above it. marks: of some rows, "+ rms_norm"."""
    parts = [f'"""{head}\n"""\n']
    for part in dict.fromkeys(one.part for one in listed):
        own = [one for one in listed if one.part == part]
        parts.append("\n".join(function(python_text.identifier(part or title), own, marks)))
    return "\n\n".join(parts) + "\n"


def function(name: str, listed: Sequence[Row], marks: Marks) -> Iterator[str]:
    """One graph. Its inputs that a module holds are named where they are read, not here."""
    taken = [one for one in listed if one.text.isidentifier()]
    yield f"def {name}({', '.join(one.text for one in taken)}):"
    yield from (f"    # {one.text}: {one.result}" for one in taken if one.result)
    ops = [one for one in listed if " = " in one.text or one.text.startswith("return ")]
    around: tuple[Module, ...] = ()
    for one, comment in zip(ops, comments(ops, marks), strict=True):
        yield from entered(around, one.modules)
        around = one.modules
        statement = f"{'    ' * (len(around) + 1)}{one.text}"
        yield f"{statement.ljust(COMMENT_COLUMN)}  # {comment}" if comment else statement


def comments(ops: Sequence[Row], marks: Marks) -> Iterator[str]:
    """Mark, type, source line; the user's code where it is not that of the op before."""
    columns = [(marks.get(one.key, ""), one.result, one.source) for one in ops]
    widths = [min(WIDEST, max(map(len, column))) for column in zip(*columns, strict=True)]
    before = ("", "")
    for one, cells in zip(ops, columns, strict=True):
        place = one.source, one.code
        shown = ('"' if one.code else "") if place == before else one.code
        before = place
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True) if width]
        yield python_text.comment("  ".join([*padded, shown]).rstrip())


def entered(old: tuple[Module, ...], new: tuple[Module, ...]) -> Iterator[str]:
    """The `with` lines between two ops. One that is left needs none: its block ends."""
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    for depth in range(same, len(new)):
        path, kind = new[depth]
        named = f"with module({python_text.quoted(path)}):  # {python_text.comment(kind)}"
        yield f"{'    ' * (depth + 1)}{named}"
