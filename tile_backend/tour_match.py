"""Stage 4: which spelling unified with the terms, and what it bound; or what stood in the way."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from tile_backend.lowering import describe, near_miss
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.near_miss import NearMiss
from tile_backend.lowering.node import line
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.registry import Registry
from tile_backend.lowering.trace import Pattern
from tile_backend.report_text import aligned
from tile_backend.tour_stage import Artefact, Stage, sentences
from tile_backend.tour_subject import Subject
from tile_backend.tour_terms import inside, laid_out, name_of, value

CLOSEST = 6
"""How many of the other patterns are shown."""


def match(subject: Subject, registry: Registry) -> Stage:
    """The stage for a match, a near miss, or nothing at all."""
    if subject.candidate is not None:
        return matched(subject, subject.candidate, registry)
    if subject.miss is not None:
        return almost(subject, subject.miss)
    if subject.site is not None and subject.site.reason is not None:
        return Stage("match", "Which spelling it is", f"{subject.site.reason}.")
    return nothing(subject, registry)


def matched(subject: Subject, candidate: Candidate, registry: Registry) -> Stage:
    """A match: the spelling, and what it bound."""
    fusion, spelling = candidate.match.fusion, candidate.match.pattern.spelling
    says = sentences(
        f"The fusion {fusion.name} ({fusion.summary}) is declared with {len(fusion.spellings)}"
        " functions that somebody could have written, its spellings. Each was traced into terms by"
        " the same rules as the graph.",
        "The matcher walks such a term and the graph's side by side from the result down: the same"
        " operation on both sides, products and sums in either order, and <names> take whatever"
        " stands in their place, the same value wherever they occur.",
        f"Here the spelling {spelling.title!r} fits.",
    )
    pattern = candidate.match.pattern
    artefacts = [
        Artefact(f"the spelling {spelling.title!r}", source_of(spelling.function), "python"),
        Artefact("its term", "\n".join(map(laid_out, pattern.roots))),
        Artefact("what its names stand for here", "\n".join(aligned(list(bound(candidate))))),
    ]
    others = list(other_patterns(subject, candidate, registry))
    if others:
        artefacts.append(
            Artefact(
                "why the closest other spellings do not fit", "\n".join(aligned(others, widest=48))
            )
        )
    return Stage("match", "Which spelling it is", says, tuple(artefacts))


def source_of(function: Any) -> str:
    """The text of a function, or that there is none to be had."""
    try:
        return textwrap.dedent(inspect.getsource(function)).rstrip()
    except (OSError, TypeError):
        return f"{getattr(function, '__name__', function)} (typed in: no source)"


def bound(candidate: Candidate) -> Iterator[tuple[str, str, str]]:
    """Name, value in the graph, and of what kind it is; then what the spelling itself fixes."""
    call, spelling = candidate.call, candidate.match.pattern.spelling
    for at, found in enumerate((candidate.match, *candidate.merged)):
        prefix = f"{at + 1}. " if candidate.merged else ""
        for name, term in found.operands.items():
            sizes = ", ".join(map(str, term.shape))
            kind = f"{value(term.dtype)}[{sizes}]"
            yield f"{prefix}<{name}>", name_of(term), kind
        for name, number in found.scalars.items() if at == 0 else ():
            yield f"<{name}>", value(number), "a number"
    if call is None:
        return
    for name in spelling.attributes:
        yield name, repr(describe.plain(call.arguments.get(name))), "says the spelling"
    if call.mask:
        yield "mask", call.mask, "read out of what the graph computes"
    if candidate.merged:
        yield "", "", "two matches that share their tables become one call"


def other_patterns(
    subject: Subject, candidate: Candidate, registry: Registry
) -> Iterator[tuple[str, str]]:
    """The closest of the patterns that do not fit, with their first difference."""
    root = subject.graph.term.get(candidate.root)
    if root is None:
        return
    fitting = candidate.match.pattern.spelling.title
    tried: dict[str, NearMiss] = {}
    for pattern in registry.patterns:
        title = pattern.spelling.title
        if title == fitting or pattern.roots[0].op != root.op:
            continue
        if not same_operands(pattern, candidate.match.pattern):
            continue
        found = near_miss.partial(pattern, root, subject.graph)
        if title not in tried or share(found) > share(tried[title]):
            tried[title] = found
    closest = sorted(tried.items(), key=lambda pair: -share(pair[1]))[:CLOSEST]
    for title, found in closest:
        yield title, found.reason.text


def same_operands(pattern: Pattern, fitting: Pattern) -> bool:
    """Whether a pattern is of the same fusion, for operands of the same dtypes."""
    ours, theirs = fitting.holes, pattern.holes
    return (
        pattern.fusion is fitting.fusion
        and pattern.low is fitting.low
        and all(ours[name].dtype == theirs[name].dtype for name in ours.keys() & theirs.keys())
    )


def share(found: NearMiss) -> float:
    """How much of the pattern is there."""
    return found.matched / max(found.pattern.size, 1)


def almost(subject: Subject, miss: NearMiss) -> Stage:
    """A near miss: the form that it is, or that it comes closest to."""
    fusion, pattern = miss.pattern.fusion, miss.pattern
    declared = not miss.progress
    says = sentences(
        f"No spelling of any fusion fits. What stands here looks like {fusion.name}"
        f" ({fusion.summary}), but is something else, and putting its kernel here would change the"
        " result.",
        f"It is a form that the fusion names so that it is never taken: {miss.reason.text}."
        if declared
        else f"The closest is the spelling {pattern.spelling.title!r}, of which {miss.progress}"
        f" are there: {miss.reason.text}.",
        f"To have it fused: {miss.reason.fix}." if miss.reason.fix else "",
    )
    artefacts = [
        Artefact(f"{pattern.spelling.title!r}", source_of(pattern.spelling.function), "python"),
        Artefact("its term", laid_out(pattern.roots[0])),
    ]
    if root := subject.graph.term.get(miss.root):
        artefacts.append(Artefact("the term of this graph", laid_out(root, inside(subject))))
    if miss.reason.node:
        artefacts += differing(subject, miss)
    return Stage("match", "What it almost is", says, tuple(artefacts))


def differing(subject: Subject, miss: NearMiss) -> Iterator[Artefact]:
    """The operation at fault."""
    for node in subject.graph.graph.nodes:
        if node.name == miss.reason.node:
            at = line(node)
            text = f"{at.text}\n{at.source}  {at.code}".rstrip()
            yield Artefact("where it is", text)


def nothing(subject: Subject, registry: Registry) -> Stage:
    """Neither a match nor a near miss."""
    anchors = anchors_of(registry.fusions)
    if subject.anchored:
        meant = ", ".join(subject.anchored)
        why = (
            f"There are operations that speak for {meant}, but less than 70 % of any spelling is"
            " here."
        )
    else:
        why = (
            "No operation here speaks for a fusion: none of the anchors below occurs. To Inductor"
            " this graph goes as it is."
        )
    rows = aligned([(name, ", ".join(words)) for name, words in anchors.items()])
    artefact = Artefact("the anchors of each fusion", "\n".join(rows))
    return Stage("match", "Which spelling it is", f"None. {why}", (artefact,))


def anchors_of(fusions: Sequence[Fusion]) -> dict[str, tuple[str, ...]]:
    """By the name of the fusion."""
    return {fusion.name: fusion.anchors for fusion in fusions}
