"""Stages 1 and 2: the code that was written, and the graph that Dynamo makes of it."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Sequence

import torch
from torch import fx

from tile_backend.lowering import input_names, node
from tile_backend.lowering.site import GraphLine
from tile_backend.report_text import aligned
from tile_backend.tour_stage import Artefact, Stage, around, sentences
from tile_backend.tour_subject import Subject

MEANT = {
    "fused": "what the backend takes for the fusion {}",
    "declined": "the fusion {}, which the backend has to leave alone",
    "near-miss": "almost the fusion {}",
}
LONGEST_CLASS = 60
"""Lines; of a longer one only the function is shown."""
Marked = Sequence[tuple[str, bool]]


def source(subject: Subject) -> Stage:
    """The functions that the site's operations were written in."""
    lines = [node.line(each) for each in subject.nodes]
    files = dict.fromkeys(line.path for line in lines if line.path)
    artefacts = [listing for path in files for listing in listings(path, lines)]
    site = subject.site
    what = "Nothing in it is marked: no fusion is found here."
    if site is not None:
        what = f"The lines marked > are {MEANT[site.status].format(site.fusion)}."
    says = sentences(
        "This is the program: plain PyTorch, which nobody has to change.",
        what,
        "torch.compile does not read this text; it watches it run, once.",
    )
    return Stage("source", "The source", says, tuple(artefacts))


def listings(path: str, lines: Sequence[GraphLine]) -> Iterator[Artefact]:
    """One for each function or class of the file that holds a marked line."""
    marked = {line.line for line in lines if line.path == path}
    text = linecache.getlines(path)
    blocks = dict.fromkeys(block_of(text, number) for number in sorted(marked))
    for first, last in blocks:
        rows = [
            f"{'>' if number in marked else ' '} {number:4} | {text[number - 1].rstrip()}".rstrip()
            for number in range(first, last + 1)
        ]
        here = [i for i in range(len(rows)) if first + i in marked]
        name = path.rsplit("/", 1)[-1]
        shown = None if len(rows) <= LONGEST_CLASS else around(here, 4)
        yield Artefact(
            name, "\n".join(rows), "text", tuple(range(len(rows))) if shown is None else shown
        )


def block_of(text: Sequence[str], line: int) -> tuple[int, int]:
    """First and last line of the innermost class or function, classes if they are short."""
    try:
        tree = ast.parse("".join(text))
    except SyntaxError:
        return line, line
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    around_it = [
        (each.lineno, each.end_lineno or each.lineno, isinstance(each, ast.ClassDef))
        for each in ast.walk(tree)
        if isinstance(each, kinds) and each.lineno <= line <= (each.end_lineno or 0)
    ]
    short = [(a, b) for a, b, is_class in around_it if not is_class or b - a < LONGEST_CLASS]
    return min(short, default=(line, line), key=lambda block: block[0])


def dynamo(subject: Subject) -> Stage:
    """The graph, one operation a line, with where each comes from."""
    says = (
        "Dynamo, the front end of torch.compile, ran the function on tensors without data and wrote"
        " down every call of PyTorch. The result is a list of operations: no ifs, no loops, no"
        " Python objects. Each knows the line and the module that it comes from. This is what the"
        " backend gets, and all that it looks at. (l_x_ is Dynamo's name for the local variable x.)"
    )
    rows, here = graph_rows(subject)
    near = tuple(i for i, (_, marked) in enumerate(rows) if marked)
    shown = None if len(rows) <= LONGEST_CLASS or not near else around(near, 3)
    artefact = Artefact(
        "the graph" if here else "the graph of the body that holds it",
        "\n".join(text for text, _ in rows),
        "text",
        tuple(range(len(rows))) if shown is None else shown,
    )
    return Stage("dynamo", "Dynamo's graph", says, (artefact,))


def graph_rows(subject: Subject) -> tuple[Marked, bool]:
    """Lines with whether the site covers them; and whether it is the whole graph."""
    graph, nodes = subject.graph.graph, set(subject.nodes)
    cells = [(cells_of(each), each in nodes) for each in graph.nodes]
    texts = aligned([row for row, _ in cells], widest=88)
    rows = [
        (f"{'>' if marked else ' '} {text}".rstrip(), marked)
        for text, (_, marked) in zip(texts, cells, strict=True)
    ]
    return rows, graph is subject.whole.graph


def cells_of(each: fx.Node) -> tuple[str, ...]:
    """What it computes, of what kind the result is, and where it was written."""
    if each.op == "output":
        names = ", ".join(input_names.name(n) for n in each.all_input_nodes)
        return f"return {names}", "", ""
    known = node.value(each)
    kind = str(node.spec(known)) if isinstance(known, torch.Tensor) else type(known).__name__
    if each.op == "placeholder":
        return f"input {input_names.name(each)}", kind, ""
    line = node.line(each)
    place = "  ".join(word for word in (node.module_path(each), line.source) if word)
    return line.text, kind, place
