"""Candidates and near misses as Sites: plain data that outlives the graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import failure, input_names, kernel_use, near_miss_extent
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.gate import Verdict
from tile_backend.lowering.kernel_use import KernelUse
from tile_backend.lowering.near_miss import NearMiss
from tile_backend.lowering.node import line, module_path, size, spec, target_name
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.reason import Reason
from tile_backend.lowering.signature import declared
from tile_backend.lowering.site import GraphLine, OpCall, Site, Status
from tile_backend.lowering.snippet import snippet


def fused(candidate: Candidate, verdict: Verdict) -> Site:
    call = op_call(candidate)
    return Site(
        fusion=candidate.fusion,
        status="fused",
        decision=verdict.decision,
        fallback=verdict.fallback,
        call=call,
        kernels=kernels(candidate, verdict),
        bindings=bindings(candidate),
        after=written_calls(candidate),
        **common(candidate),
    )


def kernels(candidate: Candidate, verdict: Verdict) -> tuple[KernelUse, ...]:
    """What the site launches."""
    assert candidate.call is not None
    return kernel_use.uses(candidate.call) if verdict.decision != "reference" else ()


def declined(candidate: Candidate) -> Site:
    call = op_call(candidate) if candidate.call is not None else None
    return Site(
        fusion=candidate.fusion,
        status="declined",
        reason=candidate.reason,
        call=call,
        bindings=bindings(candidate),
        snippet=snippet(candidate.extent.elided, candidate.root),
        **common(candidate),
    )


def common(candidate: Candidate) -> dict[str, Any]:
    root = line(candidate.root)
    nodes = candidate.extent.elided
    lines = sorted(
        (line(n) for n in nodes), key=lambda entry: [n.name for n in nodes].index(entry.name)
    )
    return {
        "module": candidate.module,
        "source": root.source,
        "source_path": root.path,
        "graph": 0,
        "spelling": candidate.match.pattern.spelling.title,
        "ops": tuple(target_name(n) for n in nodes),
        "before": tuple(lines),
    }


def near_miss(found: NearMiss, canonical: CanonicalGraph) -> Site:
    root = line(found.root)
    nodes = near_miss_extent.nodes(found, canonical)
    return Site(
        fusion=found.pattern.fusion.name,
        status="near-miss",
        module=module_path(found.root),
        source=root.source,
        source_path=root.path,
        graph=0,
        spelling=found.pattern.spelling.title,
        reason=found.reason,
        progress=found.progress,
        before=tuple(map(line, nodes)),
        snippet=snippet(nodes, found.root),
    )


def left(node: fx.Node, fusion: str, reason: Reason) -> Site:
    """A higher-order op that means a fusion and stays."""
    entry = line(node)
    return Site(
        fusion=fusion,
        status="declined",
        module=module_path(node),
        source=entry.source,
        source_path=entry.path,
        graph=0,
        spelling=target_name(node),
        reason=reason,
        ops=(target_name(node),),
        before=(entry,),
    )


def failed(site: Site, reason: Reason) -> Site:
    """A site that was to be rewritten, and is not."""
    nothing: dict[str, Any] = {"decision": None, "fallback": None, "certificate": None}
    return dataclasses.replace(
        site, status="declined", reason=reason, kernels=(), after=(), **nothing
    )


def bare(
    fusion: str, status: Status, root: fx.Node, spelling: str = "", reason: Reason | None = None
) -> Site:
    """What is left to say of a site that cannot be described. Raises nothing."""
    what = "describing it"
    entry = failure.instead(GraphLine(root.name, ""), what, root, line, root)
    return Site(
        fusion=fusion,
        status=status,
        module=failure.instead("", what, root, module_path, root),
        source=entry.source,
        source_path=entry.path,
        graph=0,
        spelling=spelling,
        reason=reason,
    )


def op_call(candidate: Candidate) -> OpCall:
    call = candidate.call
    assert call is not None
    arguments = {
        name: spec(a) if isinstance(a, torch.Tensor) else plain(a)
        for name, a in call.arguments.items()
    }
    return OpCall(call.op.name, arguments, names(candidate), tuple(spec(t) for t in call.outputs))


def plain(argument: Any) -> Any:
    """Numbers, flags and words as they are; a dtype or a symbol by name."""
    if isinstance(argument, torch.SymInt):
        known = size(argument)
        return known if isinstance(known, int) else str(known)
    if isinstance(argument, (torch.SymFloat, torch.SymBool)):
        return str(argument)
    return str(argument).removeprefix("torch.") if isinstance(argument, torch.dtype) else argument


def names(candidate: Candidate) -> dict[str, str]:
    """Op argument -> name of the value that it reads (of its base, for a derived operand)."""
    matches = (candidate.match, *candidate.merged)
    found: dict[str, str] = {}
    rule = candidate.match.fusion.merge
    for position, match in enumerate(matches):
        for name, term in match.operands.items():
            base = term
            while base.node is None and base.made_of:
                base = base.made_of[0]
            if len(matches) > 1 and rule is not None and name == rule.separate:
                name = (rule.first, rule.second)[position]
            found[name] = input_names.name(base.node) if base.node is not None else "?"
    sources = candidate.call.sources if candidate.call is not None else {}
    return found | {name: input_names.name(source.node) for name, source in sources.items()}


def bindings(candidate: Candidate) -> dict[str, object]:
    """What the site bound: numbers and attributes, and for attention what its mask is.

    copied: of which inputs the op gets a copy, see kept_copies. A fusion that describes itself has
    many arguments: those that are absent or at their default are left out.
    """
    call = candidate.call
    if call is None:
        return {}
    found: dict[str, object] = {
        name: plain(a) for name, a in call.arguments.items() if not isinstance(a, torch.Tensor)
    }
    describe = candidate.match.fusion.describe
    if describe is None:
        return found
    usual = declared(call.op).filled({})
    known = call.op.unread  # of what the model wrote, the spelling says that
    found = {n: a for n, a in found.items() if a != usual[n] and n not in known}
    found |= describe(call.arguments)
    if candidate.copied:
        found["copied"] = " ".join(sorted(map(input_names.name, candidate.copied)))
    return {**found, "mask": call.mask} if call.mask else found


def written_calls(candidate: Candidate) -> tuple[str, ...]:
    """What goes in, one op a line, without what is absent.

    `normed = tilegym.rms_norm(x=hidden, weight=w, eps=1e-06, offset=0.0, rounding='once')`
    """
    call = candidate.call
    assert call is not None
    read = names(candidate)
    known = {
        id(a): read.get(name, name)
        for name, a in call.arguments.items()
        if isinstance(a, torch.Tensor)
    }
    lines = []
    for step in call.launched:
        given = {name: a for name, a in step.arguments.items() if a is not None}
        words = [f"{name}={known.get(id(a), repr(a))}" for name, a in given.items()]
        last = step is call.launched[-1]
        results = ", ".join(root.name for root in candidate.extent.roots) if last else step.op.name
        known |= {id(out): f"{step.op.name}[{i}]" for i, out in enumerate(step.outputs)}
        lines.append(f"{results} = tilegym.{step.op.name}({', '.join(words)})")
    return tuple(lines)
