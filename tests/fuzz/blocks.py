"""Bodies and regions of a program: checkpointed layers, branches, stretches under another mode.

A body is a nested function that reads the values outside by name. What it makes stays inside, but
for what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tests.fuzz.draft import Draft, Refused
from tests.fuzz.program import Statement

Fill = Callable[[Draft], None]
"""Writes what stands inside."""


def checkpointed(s: Draft, fill: Fill) -> None:
    """One layer under torch.utils.checkpoint."""
    name = s.fresh("layer")
    results = body(s, name, fill, "{}")
    call(s, f"checkpoint({name}, use_reentrant=False)", results, "body checkpoint")


def branched(s: Draft, fill: Fill) -> None:
    """torch.cond: sites in one branch, constants in the other."""
    flag = s.need("flag", (3,), torch.bool)
    yes, no = s.fresh("yes"), s.fresh("no")
    results = body(s, yes, fill, "{}.contiguous()")
    given = [s.gone[result] for result in results]
    zeros = ", ".join(f"torch.zeros({list(t.shape)}, dtype={t.dtype})" for t in given)
    with s.inside(f"def {no}():", "body cond"):
        s.statements.append(Statement(f"return {zeros}", "body cond", s.depth))
    call(s, f"cond({flag}.any(), {yes}, {no}, ())", results, "body cond")


def body(s: Draft, name: str, fill: Fill, returned: str) -> list[str]:
    """The function; the names of what it returns, as they are inside."""
    before, made = dict(s.values), len(s.made)
    s.outside.append(frozenset(before))
    with s.inside(f"def {name}():", "body"):
        fill(s)
        results = [n for n in dict.fromkeys(s.made[made:]) if n not in before]
        words = ", ".join(returned.format(result) for result in results)
        s.statements.append(Statement(f"return {words}", "body", s.depth))
    s.outside.pop()
    del s.made[made:]
    inputs = {given.name for given in s.inputs}
    hidden = [n for n in s.values if n not in before and n not in inputs]
    s.gone |= {n: s.values.pop(n) for n in hidden}
    if not results:
        raise Refused("the body returns nothing")
    return results


def call(s: Draft, text: str, results: Sequence[str], kind: str) -> None:
    """Names for what a body returns, which has the values that it had inside."""
    made = [s.fresh(result) for result in results]
    s.statements.append(Statement(f"{', '.join(made)} = {text}", kind, s.depth))
    s.values |= {new: s.gone[old] for new, old in zip(made, results, strict=True)}
    s.results(made)


def without_grad(s: Draft, fill: Fill) -> None:
    before, s.no_grad = s.no_grad, True
    try:
        with s.inside("with torch.no_grad():", "region no_grad"):
            fill(s)
    finally:
        s.no_grad = before


def autocast(s: Draft, fill: Fill) -> None:
    inside = s.inside('with autocast("cpu", torch.bfloat16):', "region autocast")
    with torch.autocast("cpu", torch.bfloat16), inside:
        fill(s)
