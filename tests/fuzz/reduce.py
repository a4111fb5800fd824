"""The smallest program that still fails alike: parts are left out for as long as it does."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator

import torch

from tests.fuzz import names
from tests.fuzz.program import Program, Statement

Fails = Callable[[Program], bool]
TARGETS = re.compile(r"^(\w+(?:, \w+)*) = ")


def reduced(program: Program, fails: Fails, attempts: int) -> Program:
    """fails: whether a program fails as the given one does, which it must. attempts: at most."""
    left = itertools.repeat(None, attempts)
    shorter: Program | None = program
    while shorter is not None:
        program = shorter
        tries = zip(filter(is_python, smaller(program)), left, strict=False)
        shorter = next((p for p, _ in tries if fails(p)), None)
    return program


def is_python(program: Program) -> bool:
    """False where a block lost its head or all that stands in it."""
    try:
        ast.parse(program.source)
    except SyntaxError:
        return False
    return True


def smaller(program: Program) -> Iterator[Program]:
    """Programs with less in them; some name what is not there, and fail otherwise."""
    yield from shortened(program)
    yield from plainer(program)


def shortened(program: Program) -> Iterator[Program]:
    """Without halves, quarters, ... of the statements, then without single ones."""
    count = len(program.statements)
    size = count // 2
    while size > 1:
        for start in range(0, count, size):
            yield tidy(without(program, start, start + size))
        size //= 2
    for index in reversed(range(count)):
        yield tidy(without(program, index, end_of(program.statements, index)))
        yield from bypassed(program, index)
    for name in program.results:
        yield tidy(
            dataclasses.replace(program, results=tuple(r for r in program.results if r != name))
        )


def without(program: Program, start: int, stop: int) -> Program:
    """Also without the results that these statements made."""
    gone = set(itertools.chain(*(made_by(s) for s in program.statements[start:stop])))
    kept = (*program.statements[:start], *program.statements[stop:])
    results = tuple(r for r in program.results if r not in gone)
    return dataclasses.replace(program, statements=kept, results=results)


def end_of(statements: tuple[Statement, ...], index: int) -> int:
    """Where the block of a statement ends."""
    depth = statements[index].depth
    stop = index + 1
    while stop < len(statements) and statements[stop].depth > depth:
        stop += 1
    return stop


def bypassed(program: Program, index: int) -> Iterator[Program]:
    """Whatever reads the value of a statement reads one of its operands instead."""
    made = made_by(program.statements[index])
    if len(made) != 1:
        return
    known = {i.name for i in program.inputs}.union(
        *(made_by(s) for s in program.statements[:index])
    )
    text = program.statements[index].text.split(" = ", 1)[1]
    for operand in dict.fromkeys(w for w in names.words(text) if w in known and w != made[0]):
        word = re.compile(rf"\b{made[0]}\b")
        later = [
            dataclasses.replace(s, text=word.sub(operand, s.text))
            for s in program.statements[index + 1 :]
        ]
        kept = (*program.statements[:index], *later)
        results = tuple(dict.fromkeys(operand if r == made[0] else r for r in program.results))
        yield tidy(dataclasses.replace(program, statements=kept, results=results))


def plainer(program: Program) -> Iterator[Program]:
    """Without training, special values, views among inputs; in float32; with fewer sizes."""
    if program.trains:
        yield dataclasses.replace(program, trains=False)
    for index, given in enumerate(program.inputs):
        for change in ({"special": ()}, {"grad": False}, {"base": "", "view": ""}):
            changed = dataclasses.replace(given, **change)  # type: ignore[arg-type]
            if changed != given:
                inputs = (*program.inputs[:index], changed, *program.inputs[index + 1 :])
                yield dataclasses.replace(program, inputs=inputs)
    if any(i.dtype in (torch.bfloat16, torch.float16) for i in program.inputs):
        yield in_float32(program)
    if len(program.sizes) > 1:
        yield dataclasses.replace(program, sizes=program.sizes[:1])


def in_float32(program: Program) -> Program:
    """Every low-precision input and cast."""
    low = (torch.bfloat16, torch.float16)
    inputs = tuple(
        dataclasses.replace(i, dtype=torch.float32) if i.dtype in low else i for i in program.inputs
    )
    word = re.compile(r"torch\.(bfloat16|float16)")
    statements = tuple(
        dataclasses.replace(s, text=word.sub("torch.float32", s.text)) for s in program.statements
    )
    return dataclasses.replace(program, inputs=inputs, statements=statements)


def tidy(program: Program) -> Program:
    """Without the inputs that nothing names."""
    text = " ".join(s.text for s in program.statements) + " " + " ".join(program.results)
    used = set(names.words(text))
    used |= {i.base for i in program.inputs if i.name in used}
    return dataclasses.replace(program, inputs=tuple(i for i in program.inputs if i.name in used))


def made_by(statement: Statement) -> list[str]:
    """The names that it gives values to."""
    found = TARGETS.match(statement.text)
    return found[1].split(", ") if found else []
