"""Two sites that read the same tables become one call: q and k of one rotary embedding.

Only sites of one function call are merged, so that a site is what the user wrote as one step: two
calls made side by side in a module's `forward` stay two.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx

from tile_backend.lowering import failure, legality, read_place
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.extent import Extent
from tile_backend.lowering.fusion import Merge
from tile_backend.lowering.node import frames
from tile_backend.lowering.plan import Candidate, Plan


def merge(plan: Plan, canonical: CanonicalGraph) -> Plan:
    waiting: dict[Any, Candidate] = {}
    chosen: list[Candidate] = []
    for candidate in plan.chosen:
        rule = candidate.match.fusion.merge
        if rule is None or candidate.call is None or candidate.call.op.name != rule.one:
            chosen.append(candidate)
            continue
        root = candidate.root
        key = failure.instead(object(), "merging it", root, together, candidate, rule)
        partner = waiting.pop(key, None)
        both = None
        if partner is not None:
            given = partner, candidate, rule, canonical
            both = failure.instead(None, "merging it", root, joined, *given)
        if partner is None or both is None:
            waiting[key] = candidate
            chosen.append(candidate)
        else:
            chosen[chosen.index(partner)] = both
    return dataclasses.replace(plan, chosen=tuple(chosen))


def together(candidate: Candidate, rule: Merge) -> Any:
    """What two candidates must have in common."""
    assert candidate.call is not None
    shared = tuple(candidate.match.operands.get(name) for name in rule.shared)
    others = {
        n: a for n, a in candidate.call.arguments.items() if n not in (rule.separate, *rule.shared)
    }
    operands = tuple(t for n, t in candidate.match.operands.items() if n != rule.separate)
    stack = invocation(candidate.root)
    key = candidate.match.pattern.spelling.title, shared, operands, tuple(others.items()), stack
    hash(key)  # what cannot be looked up fails here, alone
    return key


def invocation(node: fx.Node) -> Any:
    """The call stack down to the function that the innermost `forward` calls, without its lines.

    Code in the `forward` itself is its own invocation.
    """
    stack = frames(node)
    names = [function for _, _, function in stack]
    last = len(names) - 1 - names[::-1].index("forward") if "forward" in names else -1
    calling = stack[: last + 1] if last < len(stack) - 1 else stack[:last]
    return calling, tuple(names[last + 1 : last + 2])


def joined(
    first: Candidate, second: Candidate, rule: Merge, canonical: CanonicalGraph
) -> Candidate | None:
    """One candidate for both, or None where no place in the program suits both."""
    order = canonical.effects.position
    inside = {*first.extent.elided, *second.extent.elided}
    operands = {*first.extent.operands, *second.extent.operands} - inside
    extent = Extent(
        (*first.extent.roots, *second.extent.roots),
        tuple(sorted(inside - {first.root, second.root}, key=order.__getitem__)),
        tuple(sorted(operands, key=order.__getitem__)),
        (),
        (*first.extent.read, *second.extent.read),
        {**first.extent.equal, **second.extent.equal},
        {**first.extent.stood_for, **second.extent.stood_for},
    )
    reason = read_place.in_order(extent, canonical) or read_place.same_versions(extent, canonical)
    if reason is not None or first.call is None or second.call is None:
        return None
    op = first.match.fusion.op(rule.two)
    arguments = {**first.call.arguments, rule.first: first.call.arguments[rule.separate]}
    arguments[rule.second] = second.call.arguments[rule.separate]
    arguments.pop(rule.separate)
    outputs = (*first.call.outputs, *second.call.outputs)
    results = (*first.call.results, *second.call.results)
    read = (*first.call.read, *second.call.read)
    left_open = (*first.call.open, *second.call.open)
    call = legality.Call(op, arguments, outputs, results, read, open=left_open)
    return dataclasses.replace(
        first,
        extent=extent,
        place=read_place.place(extent, canonical),
        call=call,
        merged=(second.match,),
    )
