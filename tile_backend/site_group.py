"""Sites that say the same thing: one entry for what happened alike in many layers.

Two sites are alike if they agree in everything a person would read about them except the layer
number: fusion, status, spelling, the family of modules, the source line, the reason, the decision,
the ops and their bindings. Names of graph nodes are not looked at: they differ from layer to layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from tile_backend.folding import fold_to_text, template
from tile_backend.lowering.site import WEIGHED

if TYPE_CHECKING:
    from tile_backend.lowering.site import Site


@dataclasses.dataclass(frozen=True)
class SiteGroup:
    """At least one site; the first stands for all."""

    sites: tuple[Site, ...]

    @property
    def first(self) -> Site:
        """The site whose lines and operands are shown."""
        return self.sites[0]

    @property
    def modules(self) -> str:
        """The folded module paths: "model.layers.{0..31}.mlp"."""
        return fold_to_text(site.module for site in self.sites)

    @property
    def count(self) -> str:
        """How often, as " x32", or nothing for once."""
        return f" x{len(self.sites)}" if len(self.sites) > 1 else ""


def told(site: Site) -> Hashable:
    """What a one-line remark says about the site, without its module."""
    why = site.reason or site.fallback
    reason = (why.kind, why.text, why.fix) if why else None
    shown = site.certificate and site.certificate.verdict
    decision = site.decision
    weighed = decision.evidence if decision and decision.basis in WEIGHED else ""
    return site.fusion, site.status, site.source, reason, decision, weighed, site.progress, shown


def rewrite(site: Site) -> Hashable:
    """What the rewrite does, for its entry in the dump."""
    evidence = site.decision.evidence if site.decision else ""
    bindings = tuple(sorted((name, str(value)) for name, value in site.bindings.items()))
    call = site.call and (site.call.op, str(sorted(site.call.arguments.items())))
    return told(site), template(site.module), site.spelling, evidence, site.ops, bindings, call


def by_remark(sites: Iterable[Site]) -> list[SiteGroup]:
    """One group per distinct remark, in order of first appearance."""
    groups: dict[Hashable, list[Site]] = {}
    for site in sites:
        groups.setdefault((told(site), template(site.module)), []).append(site)
    return [SiteGroup(tuple(group)) for group in groups.values()]


def by_rewrite(sites: Iterable[Site]) -> list[SiteGroup]:
    """One group per distinct rewrite, in order of first appearance."""
    groups: dict[Hashable, list[Site]] = {}
    for site in sites:
        groups.setdefault(rewrite(site), []).append(site)
    return [SiteGroup(tuple(group)) for group in groups.values()]
