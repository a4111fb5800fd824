"""Where a fusion's mask has a meaning that its op knows, the meaning takes the mask's place."""

from __future__ import annotations

import dataclasses

import torch

from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.legality import Call, fake_mode_of
from tile_backend.lowering.mask import source
from tile_backend.lowering.mask.facts import facts_of
from tile_backend.lowering.mask.meaning import Meaning, meaning_of
from tile_backend.lowering.match import Match
from tile_backend.lowering.node import size, value


def applied(call: Call, match: Match, canonical: CanonicalGraph) -> Call:
    """The call with what its mask means; it may need the mask no more."""
    rule, found = match.fusion.mask, meaning(call, match, canonical)
    if rule is None or found is None:
        return call
    words = str(found) if found.explained else ""
    rows, columns = map(size, rule.sizes(call.arguments))
    device = next(a.device for a in call.arguments.values() if isinstance(a, torch.Tensor))
    facts = facts_of(found, rows, columns, canonical.effects, device)
    arguments = rule.apply(call.arguments, facts)
    if arguments is call.arguments:
        return dataclasses.replace(call, mask=words)
    arguments, sources = source.split(arguments)
    if not all(canonical.reaches(given.node) for given in sources.values()):
        return dataclasses.replace(call, mask=words)
    with fake_mode_of([value(match.roots[0].node)]):
        arguments |= {name: given.made(value) for name, given in sources.items()}
    ordered = {name: arguments[name] for name in call.arguments}
    return dataclasses.replace(
        call,
        arguments=ordered,
        mask=str(found),
        sources=sources,
        respelled=None if call.open else rule.respell(ordered, call.arguments),
        masked=call.arguments,
    )


def meaning(call: Call, match: Match, canonical: CanonicalGraph) -> Meaning | None:
    """Of the one mask that the match bound; None where it has none.

    In a body it is what all calls of the body agree on.
    """
    rule = match.fusion.mask
    for hole, hides in rule.holes.items() if rule is not None else ():
        term = match.operands.get(hole)
        if rule is not None and term is not None and term.node is not None:
            rows, columns = map(size, rule.sizes(call.arguments))
            node, ways = term.node, {}
            for reader in canonical.masks:
                if (way := reader.origins(node)) not in ways:
                    ways[way] = meaning_of(node, reader, rows, columns, hides)
            found = list(ways.values())
            same = all(other == found[0] for other in found)
            return found[0] if same else Meaning(problem="its calls are given different masks")
    return None
