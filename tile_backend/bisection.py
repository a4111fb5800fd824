"""Which one rewrite breaks a program: only so many are put in, and the number is halved.

The program is compiled anew for each trial, at most log2(rewrites) + 4 times; what was compiled
before is forgotten. Torch's own `CompilerBisector` finds the same through `compiler_bisector.py`.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tile_backend import compiler_bisector
from tile_backend.errors import CannotBisect
from tile_backend.lowering.analysis import Analysis
from tile_backend.lowering.site import Site

Check = Callable[[Callable[..., Any]], bool]


@dataclasses.dataclass(frozen=True)
class Culprit:
    """The first rewrite, in program order, with which the check fails.

    number: counted from 1, of so many `rewrites`. alone: it fails with this rewrite and no other.
    trials: how often the program was compiled.
    """

    site: Site
    number: int
    rewrites: int
    alone: bool
    trials: int

    def to_text(self) -> str:
        """What it is, and how to leave it out."""
        site, place = self.site, self.site.module or "the function itself"
        also = "alone as well" if self.alone else "together with those before it, not alone"
        exclude = {site.fusion: [site.module]} if site.module else None
        lines = [
            f"rewrite {self.number} of {self.rewrites} breaks the check, {also}:",
            f"  {site.fusion}  {place}  {site.source}  ({site.spelling}: {site.decision})",
        ]
        if exclude:
            lines.append(f'  leave it out with options={{"tilegym.exclude": {exclude}}}')
        else:
            lines.append(f"  leave it out with tile_backend.fusions(disable=[{site.fusion!r}])")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()


@dataclasses.dataclass
class Trial:
    """One compile of everything. keeps: of a rewrite's number, from 0; sites: all that there are,
    put in or not.
    """

    keeps: Callable[[int], bool]
    sites: list[Site] = dataclasses.field(default_factory=list)

    def asks(self, site: Site) -> bool:
        """Whether the next rewrite, which is this one, goes in."""
        self.sites.append(site)
        return self.keeps(len(self.sites) - 1)


_trial: contextvars.ContextVar[Trial | None] = contextvars.ContextVar("trial", default=None)


def bisect(fn: Callable[..., Any], check: Check, **compile_arguments: Any) -> Culprit:
    """The rewrite of `fn` that makes `check` fail.

    fn: a function or module. check: takes the compiled `fn`, calls it, and returns whether all is
    right; an exception means that it is not. compile_arguments: of `torch.compile`, such as
    `options` or `dynamic`. Raises CannotBisect where the check does not fail, or fails without any
    rewrite.
    """
    trials = 0

    def passes(keeps: Callable[[int], bool]) -> tuple[bool, list[Site]]:
        nonlocal trials
        trials += 1
        with attempt(keeps) as trial:
            compiled = torch.compile(fn, backend="tilegym", **compile_arguments)
            try:
                return bool(check(compiled)), trial.sites
            except Exception:  # noqa: BLE001 - a check may say so by any exception
                return False, trial.sites

    everything, sites = passes(lambda index: True)
    if everything:
        raise CannotBisect(cause=f"the check passes with all {len(sites)} rewrites in place")
    if not passes(lambda index: False)[0]:
        raise CannotBisect(cause="the check fails without any rewrite, so none of them is at fault")
    good, bad = 0, len(sites)
    while bad - good > 1:
        middle = (good + bad) // 2
        if passes(lambda index, middle=middle: index < middle)[0]:  # type: ignore[misc]
            good = middle
        else:
            bad = middle
    alone = bad == 1 or not passes(lambda index: index == bad - 1)[0]
    return Culprit(sites[bad - 1], bad, len(sites), alone, trials)


@contextlib.contextmanager
def attempt(keeps: Callable[[int], bool]) -> Iterator[Trial]:
    """Compiles inside are trials; nothing that was compiled before or inside is used again."""
    torch.compiler.reset()
    trial = Trial(keeps)
    token = _trial.set(trial)
    try:
        yield trial
    finally:
        _trial.reset(token)
        torch.compiler.reset()


def limited(found: Analysis) -> Analysis:
    """What of an analysis is put in: in a trial a part, else all."""
    trial = _trial.get()
    if trial is None and not compiler_bisector.is_active():
        return found
    asks = trial.asks if trial is not None else compiler_bisector.asks
    sites = iter([site for site in found.sites if is_put_in(site)])
    accepted = tuple(
        (module, tuple(candidate for candidate in candidates if asks(next(sites))))
        for module, candidates in found.accepted
    )
    return dataclasses.replace(found, accepted=accepted)


def is_put_in(site: Site) -> bool:
    """Whether something takes the place of the original ops; these sites are the candidates of
    `Analysis.accepted`, in the same order.
    """
    decision = site.decision if site.status == "fused" else None
    return decision is not None and (decision.op_in_graph or decision.respelled)
