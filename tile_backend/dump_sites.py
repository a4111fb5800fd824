"""All sites of a report by layers, layers that are alike under one heading: for the page of a dump.

A layer is what the first number of a module path names: `model.layers.3`. Sites elsewhere are
together with their neighbours, in program order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tile_backend.folding import fold_to_text, is_number
from tile_backend.report_text import plural

if TYPE_CHECKING:
    from tile_backend.lowering.site import Site
    from tile_backend.report import Report
    from tile_backend.rewrite_entry import RewriteEntry

OUTSIDE = "outside of layers"


def by_layer(
    report: Report, entries: Sequence[RewriteEntry], anchors: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Headings with their layers with their sites. anchors: id(site) -> its id on the page."""
    entry_of = {id(site): entry.name for entry in entries for site in entry.group.sites}
    found: dict[object, dict[str, Any]] = {}
    runs = itertools.groupby(report.sites, key=lambda site: (site.graph, layer(site.module)))
    for number, ((graph, name), run) in enumerate(runs):
        sites = list(run)
        # What lies outside of layers is never folded: it is not the same thing again.
        alike = tuple(entry_of[id(site)] for site in sites) if name else number
        group = found.setdefault((graph, alike), {"graph": graph, "layers": []})
        rows = [row(site, anchors[id(site)], entry_of[id(site)]) for site in sites]
        group["layers"].append({"name": name or OUTSIDE, "sites": rows})
    several = len(report.graphs) > 1
    return [heading(group, several) for group in found.values()]


def layer(module: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp`; "" where there is no number."""
    parts = module.split(".")
    place = next((i for i, part in enumerate(parts) if is_number(part)), None)
    return "" if place is None else ".".join(parts[: place + 1])


def row(site: Site, anchor: str, entry: str) -> dict[str, Any]:
    """One site."""
    return {
        "anchor": anchor,
        "entry": entry,
        "status": site.status,
        "fusion": site.fusion,
        "module": site.module or "(root)",
        "source": site.source,
    }


def heading(group: dict[str, Any], several_graphs: bool) -> dict[str, Any]:
    """The folded name of the layers and what each holds."""
    layers = group["layers"]
    number = len(layers[0]["sites"])
    each = " each" if len(layers) > 1 else ""
    where = f"graph {group['graph']}: " if several_graphs else ""
    fusions = ", ".join(dict.fromkeys(site["fusion"] for site in layers[0]["sites"]))
    return {
        "name": where + fold_to_text(one["name"] for one in layers),
        "said": f"{number} site{plural(number)}{each}: {fusions}",
        "layers": layers,
    }
