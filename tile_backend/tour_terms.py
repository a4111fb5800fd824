"""Stage 3: the site's operations as canonical terms, and the identities that made them so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import input_names
from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.node import target_name
from tile_backend.lowering.terms import SymbolicNumber, Term
from tile_backend.lowering.vocabulary import FUNCTIONS, METHODS, Word
from tile_backend.report_text import aligned
from tile_backend.tour_stage import Artefact, Stage, sentences
from tile_backend.tour_subject import Subject

WIDTH = 80
"""Characters of a term on one line."""


def terms(subject: Subject) -> Stage:
    """Each operation, what it became, and by which equations."""
    says = sentences(
        "The same value can be written in many ways: x.pow(2), x * x, torch.square(x).",
        "So the backend looks each call up in a vocabulary and rewrites what it finds with a few"
        " equations, none of which changes a rounding.",
        "What is left is one term per value: equal values are the same term, however they were"
        " written. What the vocabulary does not know stays a leaf, which nothing looks into.",
    )
    artefacts = [Artefact("each operation as a term", "\n".join(rows(subject)))]
    root = subject.origin.root if subject.origin is not None else None
    if root is not None and root in subject.graph.term:
        whole = laid_out(subject.graph.term[root], inside(subject))
        artefacts.append(Artefact("all of it as one term", whole))
    others = list(other_names(subject))
    if others:
        artefacts.append(Artefact("other names of the same operation", "\n".join(aligned(others))))
    return Stage("terms", "Canonical terms", says, tuple(artefacts))


def rows(subject: Subject) -> Iterator[str]:
    """`pow_1 = square(float_1)    x ** 2 = square(x)`."""
    table = []
    called = (node for node in subject.graph.graph.nodes if node.op.startswith("call_"))
    for node in subject.nodes or called:
        term = subject.graph.term.get(node)
        if term is None:
            table.append((node.name, "=", "several values: each is a term of its own", ""))
            continue
        equations = "; ".join(map(equation, subject.graph.rules[node]))
        shown = name_of(term) if term.node is not node else one_level(term)
        table.append((node.name, "=", shown, equations))
    yield from (line.rstrip() for line in aligned(table, widest=60))


def equation(rule: Callable[..., Any]) -> str:
    """What an identity states."""
    return (inspect.getdoc(rule) or rule.__name__).split("\n")[0].rstrip(".")


def name_of(term: Term) -> str:
    """A value of the graph by its name, anything else written out."""
    return input_names.name(term.node) if term.node is not None else one_level(term)


def one_level(term: Term) -> str:
    """The operation with its operands by name."""
    if term.op == "leaf" and term.node is not None:
        return f"{input_names.name(term.node)}, a leaf"
    return called(term, name_of)


def written(term: Term, inside: Collection[Term] | None = None) -> str:
    """The whole term. inside: terms of the graph that are not written out are named instead."""
    if inside is not None and term.node is not None and term not in inside:
        return name_of(term)
    return called(term, lambda inner: written(inner, inside))


def laid_out(term: Term, inside: Collection[Term] | None = None, indent: int = 0) -> str:
    """`written`, on several lines where one is too short."""
    line = written(term, inside)
    if len(line) + indent <= WIDTH or not term.args:
        return line
    space = " " * (indent + 2)
    parts = [laid_out(argument, inside, indent + 2) for argument in term.args]
    parts += [value(attribute) for attribute in term.attrs]
    return f"{term.op}(" + ",".join(f"\n{space}{part}" for part in parts) + ")"


def inside(subject: Subject) -> set[Term]:
    """The terms of the site's own operations."""
    return {subject.graph.term[node] for node in subject.nodes if node in subject.graph.term}


def called(term: Term, shown: Callable[[Term], str]) -> str:
    """`mean(square(x), -1)`; a hole and a scalar of a pattern are named in angle brackets."""
    if term.op == "number":
        return value(term.attrs[1])
    if OPERATIONS[term.op].free and term.op != "leaf":
        inverse = "1/" if term.op == "scalar" and term.attrs[1] == -1 else ""
        return f"{inverse}<{term.attrs[0]}>"
    words = [shown(argument) for argument in term.args] + [value(a) for a in term.attrs]
    return f"{term.op}({', '.join(words)})"


def value(given: Any) -> str:
    """An attribute or a number: a dtype by its short name, a bound by its value."""
    if isinstance(given, torch.dtype):
        return str(given).removeprefix("torch.")
    if isinstance(given, SymbolicNumber):
        return given.node.name
    if isinstance(given, float):
        return f"{given:g}"
    if isinstance(given, (tuple, list)):
        return f"[{', '.join(map(value, given))}]"
    return input_names.name(given) if isinstance(given, fx.Node) else str(given)


def other_names(subject: Subject) -> Iterator[tuple[str, str]]:
    """For each distinct call of the site, the other names with the same meaning."""
    seen: set[str] = set()
    for node in subject.nodes:
        name = target_name(node)
        found = METHODS.get(node.target) if isinstance(node.target, str) else None
        meaning = found or FUNCTIONS.get(node.target)
        term = subject.graph.term.get(node)
        if meaning is None or name in seen or (term is not None and term.op == "cast"):
            continue
        seen.add(name)
        names = sorted(names_with(meaning))
        if len(names) > 1:
            yield name, ", ".join(names)


def names_with(meaning: Word) -> set[str]:
    """Every method and function that the vocabulary gives this meaning; dunders by their sign."""
    methods = {name for name, found in METHODS.items() if found is meaning}
    functions = {
        f"{getattr(target, '__module__', None) or 'torch'}.{getattr(target, '__name__', target)}"
        for target, found in FUNCTIONS.items()
        if found is meaning
    }
    tidy = {name.replace("_operator.", "operator.") for name in functions}
    return {f".{name}()" for name in methods if not name.startswith("__")} | {
        name for name in tidy if "._" not in name and not name.startswith("_")
    }
