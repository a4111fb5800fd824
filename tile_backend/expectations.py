"""`tilegym.expect` and `tilegym.strict`: what must be found, and what raises when it is not.

Expected are counts by fusion (a dict) or sites by module (a lock file, `lock_file`); both are
totals over all graphs of a callable, and more than expected is fine. A lost site is reported with
its name and the nearest candidate, whose first differing op is the likely cause.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tile_backend import lock_file
from tile_backend.errors import ExpectationMissed, ExpectationNotMet, FallbackRefused
from tile_backend.folding import fold_to_text
from tile_backend.lowering.reason import ReasonKind
from tile_backend.remark_filter import RemarkFilter
from tile_backend.remarks import remarks
from tile_backend.report_text import failures, sentence

if TYPE_CHECKING:
    from tile_backend.lowering.site import Site
    from tile_backend.options import Options
    from tile_backend.report import Report

FALLBACKS = frozenset(
    (
        ReasonKind.MISSING_KERNEL,
        ReasonKind.MISSING_DEPENDENCY,
        ReasonKind.VERIFY_FAILED,
        ReasonKind.INTERNAL_FAILURE,
    )
)
"""Why a declined site that should run a kernel does not; a choice of the gate is no fallback."""


@dataclasses.dataclass(frozen=True)
class Lost:
    """A fusion with fewer sites than expected.

    modules: where they are missing, one entry per site, empty where only a count was expected.
    nearest: the site that most likely was one of them, declined or a near miss.
    """

    fusion: str
    expected: int
    found: int
    modules: tuple[str, ...] = ()
    nearest: Site | None = None

    def __str__(self) -> str:
        """One or two lines: what is lost and where, and what was found instead."""
        where = f", lost at {fold_to_text(self.modules)}" if self.modules else ""
        text = f"  {self.fusion}: {self.found} of {self.expected} expected{where}"
        if self.nearest is None:
            return text + "\n    nothing like it was found there"
        near = self.nearest
        place = " ".join(part for part in (near.module, near.source) if part)
        return text + f"\n    nearest: {near.status} {near.fusion} {place}: {sentence(near)}"


def lost_sites(report: Report, options: Options) -> list[Lost]:
    """What `tilegym.expect` names and the report lacks, by fusion."""
    if isinstance(options.expect, str):
        return list(lost_from_lock(report, lock_file.load(options.expect)))
    return [
        Lost(fusion, expected, found, nearest=nearest_candidate(report, fusion, ()))
        for fusion, expected in options.expected_counts.items()
        if (found := report.counts.get(fusion, 0)) < expected
    ]


def lost_from_lock(report: Report, locked: lock_file.Sites) -> Iterator[Lost]:
    """Sites of the lock file that the report lacks, by name."""
    present = lock_file.fused_sites(report)
    for fusion, modules in sorted(locked.items()):
        found = present.get(fusion, {})
        lost = tuple(
            module for module, n in modules.items() for _ in range(n - found.get(module, 0))
        )
        if lost:
            expected = sum(modules.values())
            candidate = nearest_candidate(report, fusion, lost)
            yield Lost(fusion, expected, expected - len(lost), lost, candidate)


def nearest_candidate(report: Report, fusion: str, modules: tuple[str, ...]) -> Site | None:
    """The site not fused that most resembles a lost one: same fusion and module before either."""
    candidates = [site for site in report.sites if site.status != "fused"]
    scored = [(2 * (site.fusion == fusion) + (site.module in modules), site) for site in candidates]
    best = max(scored, key=lambda pair: pair[0], default=(0, None))
    return best[1] if best[0] else None


def fallbacks(report: Report) -> list[Site]:
    """Sites that were to run a kernel and cannot, fused or declined, or lack a certificate."""
    return [
        site
        for site in report.sites
        if site.fallback
        or (site.reason and site.reason.kind in FALLBACKS)
        or (site.certificate and site.certificate.verdict == "not certified")
    ]


def enforce(report: Report, options: Options) -> None:
    """Raise or warn as the options say; call it when the totals are known.

    Raises `ExpectationNotMet` unless strict is off (then it warns with `ExpectationMissed`), and
    `FallbackRefused` under "no-fallback".
    """
    if options.strict == "no-fallback":
        refuse_fallbacks(report)
    if not (lost := lost_sites(report, options)):
        return
    text = "\n".join(map(str, lost))
    if options.strict != "off":
        raise ExpectationNotMet(title=report.title, lost=text)
    warnings.warn(ExpectationMissed(title=report.title, lost=text), stacklevel=2)


def refuse_fallbacks(report: Report) -> None:
    """Raise `FallbackRefused` with the remarks of the sites at fault, if there are any.

    A failure of ours counts as well: nobody knows which sites it has cost.
    """
    sites = fallbacks(report)
    failed = [f"  analysis: {text}" for facts in report.graphs for text in failures(facts)]
    if sites or failed:
        only = dataclasses.replace(report, sites=tuple(sites), graphs=(), complete=True)
        every = RemarkFilter.parse(",".join(("fused", "declined", "near-miss")))
        lines = [f"  {remark}" for remark in remarks(only, every)] + failed
        raise FallbackRefused(count=len(sites) + len(failed), remarks="\n".join(lines))
