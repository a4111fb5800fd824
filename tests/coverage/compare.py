"""Which of the calls of an eager run are covered by fused sites.

A site covers a call in its own module first, then one in a module inside its own: a fusion across a
border belongs to its last op's module, so residual + norm(x) lies in the layer and not in the norm.
After a graph break Dynamo starts anew in an inner module, and paths are relative to that one.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.coverage.call import Call, Category

FUSIONS: dict[str, tuple[Category, ...]] = {
    "rms_norm": (Category.NORM,),
    "add_rms_norm": (Category.NORM,),
    "layer_norm": (Category.NORM,),
    "add_layer_norm": (Category.NORM,),
    "silu_mul": (Category.GATED_MLP,),
    "gelu_mul": (Category.GATED_MLP,),
    "rotary": (Category.ROTARY,),
    "attention": (Category.SDPA, Category.EAGER_ATTENTION),
}
PAIRS = frozenset(("rotary_qk",))
"""Ops that stand for two units."""


@dataclasses.dataclass
class Missed:
    """A call without a site, and what the report says about its module."""

    call: Call
    units: int
    reason: str = ""


def units(site: Any) -> int:
    return 2 if site.call is not None and site.call.op in PAIRS else 1


def inside(path: str, outer: str) -> bool:
    return not outer or path.startswith(f"{outer}.")


RELATIONS: tuple[Callable[[str, str], bool], ...] = (
    lambda call, site: call == site,
    lambda call, site: bool(site) and call.endswith(f".{site}"),
    lambda call, site: inside(call, site),
    lambda call, site: inside(site, call),
)
"""How the module of a call may relate to that of its site, best first."""


def uncovered(calls: Sequence[Call], sites: Iterable[Any]) -> list[Missed]:
    """The calls that no fused site covers; `sites` are those of a report."""
    sites = list(sites)
    left = [Missed(call, call.units) for call in calls]
    supply = [
        [site.module, FUSIONS[site.fusion], units(site)]
        for site in sites
        if site.status == "fused" and site.fusion in FUSIONS
    ]
    for related in RELATIONS:
        for site in supply:
            module, categories, _ = site
            for missed in left:
                if missed.call.category in categories and related(missed.call.module, module):
                    taken = min(missed.units, site[2])
                    missed.units -= taken
                    site[2] -= taken
    remaining = [missed for missed in left if missed.units]
    for missed in remaining:
        missed.reason = reason_near(missed.call, sites)
    return remaining


def reason_near(call: Call, sites: Iterable[Any]) -> str:
    """What the report says about this category in this module: the commonest words."""
    said = collections.Counter(
        f"{site.status}: {site.fusion}: {site.reason}"
        for site in sites
        if site.status != "fused"
        and call.category in FUSIONS.get(site.fusion, ())
        and any(related(call.module, site.module) for related in RELATIONS)
    )
    return said.most_common(1)[0][0] if said else "no candidate"


def totals(calls: Iterable[Call]) -> dict[str, int]:
    """Units by category."""
    counted: collections.Counter[str] = collections.Counter()
    for call in calls:
        counted[call.category.value] += call.units
    return dict(sorted(counted.items()))


def site_counts(sites: Iterable[Any]) -> dict[str, int]:
    """Fused sites by fusion."""
    fused = collections.Counter(site.fusion for site in sites if site.status == "fused")
    return dict(sorted(fused.items()))
