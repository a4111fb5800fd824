"""One entry of the dump: a distinct rewrite, with its stable name and its diff as text.

The diff has two parts: the ops taken out, with the user's source lines, and the op put in with what
it binds. Sites that are alike are one entry with a list of places. Where the ops stay, because the
gate left them to Inductor or the site was declined or missed, the titles say so.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tile_backend.file_names import safe
from tile_backend.folding import template
from tile_backend.report_text import aligned, sentence
from tile_backend.site_group import SiteGroup, by_rewrite

if TYPE_CHECKING:
    from tile_backend.lowering.site import Site
    from tile_backend.report import Report

TITLES = {
    "fused": ("removed", "put in"),
    "reference": ("matched, left to Inductor", "the op with the same meaning"),
    "declined": ("matched, left as it is", "declined"),
    "near-miss": ("almost matched, left as it is", "near miss"),
}


@dataclasses.dataclass(frozen=True)
class RewriteEntry:
    """A group of alike sites and the name of its folder."""

    name: str
    group: SiteGroup

    @property
    def title(self) -> str:
        """One line: fusion, how often, where."""
        site = self.group.first
        return f"{site.fusion}{self.group.count} at {self.group.modules}"

    @property
    def before(self) -> list[str]:
        """The ops taken out, or looked at, each with its place and the user's code."""
        rows = [(line.text, line.source, line.code) for line in self.group.first.before]
        return [text.rstrip() for text in aligned(rows)]

    @property
    def after(self) -> list[str]:
        """The ops put in; for a site left as it is, why."""
        site = self.group.first
        return list(site.after) if site.status == "fused" else [sentence(site)]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What is known besides the ops: status, spelling, source, decision, operands, bindings."""
        site = self.group.first
        facts = [("status", site.status), ("spelling", site.spelling), ("source", site.source)]
        if site.decision:
            facts.append(("decision", f"{site.decision}: {site.decision.evidence}"))
        if site.reason:
            facts.append(("reason", site.reason.kind.value))
        if site.certificate:
            facts.append(("certificate", str(site.certificate)))
        facts += [("kernel", str(use)) for use in site.kernels]
        if site.call:
            facts.append(("op", f"torch.ops.tilegym.{site.call.op}"))
            facts += [(name, str(value)) for name, value in site.call.arguments.items()]
            facts += [("result", str(result)) for result in site.call.results]
        bound = site.call.arguments if site.call else {}
        facts += [(n, str(value)) for n, value in site.bindings.items() if n not in bound]
        return [(name, value) for name, value in facts if value]

    @property
    def places(self) -> list[str]:
        """Every site of the group: graph, module, source line."""
        rows = [(f"graph {s.graph}", s.module or "(root)", s.source) for s in self.group.sites]
        return [text.rstrip() for text in aligned(rows)]

    def diff(self) -> str:
        """The content of diff.txt."""
        site = self.group.first
        out, put = titles(site)
        known = aligned([(f"{name}:", value) for name, value in self.facts])
        removed, added = ("-", "+") if is_replaced(site) else (" ", " ")
        parts = [
            [self.title],
            known,
            [f"--- {out}: {len(self.before)} ops", *(f"{removed} {line}" for line in self.before)],
            [f"+++ {put}", *(f"{added} {line}" for line in self.after)],
            [f"sites: {len(self.group.sites)}", *(f"  {place}" for place in self.places)],
        ]
        return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def is_replaced(site: Site) -> bool:
    """Whether other ops are in the place of the original ones."""
    return bool(site.decision and (site.decision.op_in_graph or site.decision.respelled))


def titles(site: Site) -> tuple[str, str]:
    """What stands above the ops before, and above those after or the reason."""
    out, put = TITLES["fused" if is_replaced(site) else site.decision or site.status]
    plain = site.decision is not None and not site.decision.op_in_graph
    return out, "put in, as plain PyTorch" if plain and is_replaced(site) else put


def entries(report: Report) -> list[RewriteEntry]:
    """The distinct rewrites of a report, fused ones first, named in that order."""
    order = ("fused", "declined", "near-miss")
    groups = sorted(by_rewrite(report.sites), key=lambda group: order.index(group.first.status))
    return [RewriteEntry(name(i, group), group) for i, group in enumerate(groups, start=1)]


def name(number: int, group: SiteGroup) -> str:
    """A folder name: "003_add_rms_norm__model.layers.N.post_attention_layernorm"."""
    site = group.first
    status = "" if site.status == "fused" else f"{site.status}_"
    return safe(f"{number:03}_{status}{site.fusion}__{template(site.module) or 'root'}")
