"""A report as JSON: `schema_version`, stable keys, every site with all that is known about it.

The schema is docs/report.schema.json. Values that JSON cannot say become text: a dtype, a symbol,
an infinity. A change that readers could notice raises SCHEMA_VERSION.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tile_backend.lowering.site import Decision, TensorSpec
from tile_backend.version import VERSION

if TYPE_CHECKING:
    from tile_backend.lowering.reason import Reason
    from tile_backend.lowering.site import OpCall, Site
    from tile_backend.report import GraphFacts, Report

SCHEMA_VERSION = 4


def dumps(report: Report) -> str:
    """The JSON text, indented, without a trailing newline."""
    return json.dumps(report_object(report), indent=2, allow_nan=False)


def report_object(report: Report) -> dict[str, Any]:
    """The report as plain dicts, lists, text, numbers and None."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tile_backend": VERSION,
        "title": report.title,
        "complete": report.complete,
        "stopped": report.stopped,
        "counts": report.counts,
        "graphs": [graph_object(index, facts) for index, facts in enumerate(report.graphs)],
        "sites": [
            {"id": identity, **site_object(site)}
            for identity, site in zip(identities(report), report.sites, strict=True)
        ],
    }


def identities(report: Report) -> list[str]:
    """A name per site that stays the same while the model does: "0/rms_norm@model.norm"."""
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for site in report.sites:
        name = f"{site.graph}/{site.fusion}@{site.module}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def graph_object(index: int, facts: GraphFacts) -> dict[str, Any]:
    """One graph."""
    known = {k: plain(v) for k, v in dataclasses.asdict(facts).items()}
    return {"index": index, **known, "failures": [reason_object(why) for why in facts.failures]}


def site_object(site: Site) -> dict[str, Any]:
    """One site."""
    return {
        "fusion": site.fusion,
        "status": site.status,
        "module": site.module,
        "source": site.source,
        "source_path": site.source_path,
        "graph": site.graph,
        "spelling": site.spelling,
        "progress": site.progress,
        "reason": site.reason and reason_object(site.reason),
        "fallback": site.fallback and reason_object(site.fallback),
        "decision": plain(site.decision),
        "ops": list(site.ops),
        "bindings": plain(site.bindings),
        "call": site.call and call_object(site.call),
        "kernels": [plain(dataclasses.asdict(use)) for use in site.kernels],
        "certificate": site.certificate and dataclasses.asdict(site.certificate),
        "before": [
            {"name": line.name, "text": line.text, "source": line.source, "code": line.code}
            for line in site.before
        ],
        "after": list(site.after),
    }


def reason_object(reason: Reason) -> dict[str, str]:
    """One obstacle."""
    return {**dataclasses.asdict(reason), "kind": reason.kind.value}


def call_object(call: OpCall) -> dict[str, Any]:
    """The call that stands for a site."""
    return {
        "op": call.op,
        "arguments": plain(call.arguments),
        "operands": dict(call.operands),
        "results": [plain(result) for result in call.results],
    }


def plain(value: object) -> Any:
    """The nearest thing that JSON can say."""
    if isinstance(value, Decision):
        return {
            "choice": str(value),
            "evidence": value.evidence,
            "op_in_graph": value.op_in_graph,
            "respelled": value.respelled,
            "basis": value.basis,
            "measurement": plain(value.measurement and dataclasses.asdict(value.measurement)),
        }
    if isinstance(value, TensorSpec):
        return {name: plain(part) for name, part in dataclasses.asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)
