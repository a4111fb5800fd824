"""Stages 5 and 6: may it be rewritten, and what shall run there?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tile_backend.lowering import gate, input_names, legality, read_place, steps
from tile_backend.lowering.extent import Extent
from tile_backend.lowering.gate import Verdict
from tile_backend.lowering.legality import Call
from tile_backend.lowering.node import hint
from tile_backend.lowering.plan import Candidate, matches
from tile_backend.lowering.reason import Reason
from tile_backend.lowering.registry import Registry
from tile_backend.report_text import aligned, what_runs
from tile_backend.tour_stage import Artefact, Stage, sentences
from tile_backend.tour_subject import Subject

PASSED = "yes"


def plan(subject: Subject, candidate: Candidate, registry: Registry) -> Stage:
    """What was checked, and what the match covers."""
    says = sentences(
        "That it computes the right thing is not enough. A rewrite takes operations out of a"
        " program, and must not be noticed by the rest of it: so each of these is proven before"
        " anything is changed, and a question without an answer counts as a no.",
        "Where matches overlap, one wins: the fusion of higher priority, then the larger match.",
    )
    if candidate.reason is not None:
        says = sentences(says, f"Here one says no: {candidate.reason.text}.", fix(candidate.reason))
    artefacts = [
        Artefact("what was checked", "\n".join(aligned(list(checks(subject, candidate)), 80)))
    ]
    artefacts.append(Artefact("what the match covers", "\n".join(extent(candidate.extent))))
    rivals = list(overlapping(subject, candidate, registry))
    if rivals:
        artefacts.append(Artefact("matches that it wins over", "\n".join(aligned(rivals))))
    return Stage("plan", "May it be rewritten?", says, tuple(artefacts))


def fix(reason: Reason) -> str:
    """A sentence, or ""."""
    return f"What you can do: {reason.fix}." if reason.fix else ""


def checks(subject: Subject, candidate: Candidate) -> Iterator[tuple[str, str]]:
    """A question and its answer, in the order in which they are asked."""
    graph, where = subject.graph, candidate.extent
    fusion, call = candidate.match.fusion, candidate.call
    inside = None if fusion.drops else legality.contained(where, graph)
    answers: list[tuple[str, Reason | None]] = [
        ("has the form an op?", candidate.match.pattern.spelling.declined),
        ("are these plain tensors that nothing writes to?", legality.unaliased(where, graph)),
        ("is there no side effect in between?", read_place.same_versions(where, graph)),
        ("does nobody else read what is computed inside?", inside),
        (
            "are the operands there before the first result is used?",
            read_place.in_order(where, graph),
        ),
        ("does what the backward needs stay as it is?", read_place.kept(where, graph)),
    ]
    if call is not None:
        same = legality.same_results(call, where)
        limits = [limit(call.arguments) for limit in fusion.limits]
        answers.append(("has the op's result the same dtype, shape and device?", same))
        answers += [("does the fusion take these arguments?", found) for found in limits]
    for question, reason in answers:
        yield question, PASSED if reason is None else f"no: {reason.text}"
        if reason is not None:
            return
    if candidate.reason is not None:
        yield "is it wanted here?", f"no: {candidate.reason.text}"


def extent(where: Extent) -> Iterator[str]:
    """The nodes by their part."""
    parts = {
        "results": where.roots,
        "gone inside": tuple(n for n in where.interior if n not in where.roots),
        "read from outside": where.operands,
    }
    for part, nodes in parts.items():
        yield f"{part:18} {', '.join(map(input_names.name, nodes)) or 'nothing'}"


def overlapping(
    subject: Subject, candidate: Candidate, registry: Registry
) -> Iterator[tuple[str, str]]:
    """Other fusions that fit a part of the same operations."""
    seen = set()
    for node in subject.nodes:
        term = subject.graph.term.get(node)
        if term is None or term.node is not node:
            continue
        for found in matches(term, registry.matcher, subject.graph.table):
            if found.fusion is not candidate.match.fusion and found.fusion.name not in seen:
                seen.add(found.fusion.name)
                ours, theirs = candidate.match.fusion.priority, found.fusion.priority
                yield f"{found.fusion.name} at {node.name}", f"priority {theirs}, not {ours}"


# --- the gate -------------------------------------------------------------------------------------


def decision(subject: Subject, candidate: Candidate, call: Call) -> Stage:
    """This machine, and a GPU of compute capability 9.0."""
    says = (
        "A rewrite that may be done need not be worth it. One kernel for several operations saves"
        " reading and writing the values in between; but Inductor fuses as well, and a kernel of"
        " ours in its way can cost more than it saves. So the gate decides for each site, from what"
        " has been measured or, as long as nothing has, from the bytes, operations and launches of"
        " both, neighbours included; and the kernel's launch plan is asked whether it takes these"
        " sizes. What is said of a GPU that is not here leaves the neighbours out."
    )
    site = subject.site
    assert site is not None
    rows = []
    if site.decision is not None:
        here = gate.device_of(call)
        where = "on this machine's CPU" if here.type == "cpu" else f"here, on {here}"
        rows.append((where, what_runs(site.decision), site.decision.evidence))
    if gate.device_of(call).type != "cuda":
        verdict = on_gpu(candidate, call)
        where = f"on an {gate.architecture(torch.device('cuda'))} GPU"
        rows.append((where, what_runs(verdict.decision), verdict.decision.evidence))
        if verdict.fallback is not None and verdict.fallback.fix:
            rows.append(("", "", f"fix: {verdict.fallback.fix}"))
    artefact = Artefact("the decision", "\n".join(line.rstrip() for line in aligned(rows)))
    return Stage("gate", "Kernel or not?", says, (artefact,))


def on_gpu(candidate: Candidate, call: Call) -> Verdict:
    """What the gate says of the same call on CUDA tensors; of an sm_90 GPU where there is none."""
    moved = on_cuda(call)
    fusion = candidate.match.fusion
    divided = steps.divided(fusion, moved, gate.multiprocessors(gate.device_of(moved)))
    return gate.decide(fusion, dataclasses.replace(moved, steps=divided), "auto")


def on_cuda(call: Call) -> Call:
    """The call on fake CUDA tensors of the sizes seen at capture, without a mask's facts undone."""
    with FakeTensorMode(allow_non_fake_inputs=True):

        def moved(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            size, stride = ([hint(n) for n in each] for each in (value.shape, value.stride()))
            made = torch.empty_strided(size, stride, dtype=value.dtype, device="cuda")
            return made.requires_grad_(value.requires_grad)

        arguments: Mapping[str, Any] = {n: moved(a) for n, a in call.arguments.items()}
        outputs, results = (tuple(map(moved, each)) for each in (call.outputs, call.results))
    return dataclasses.replace(
        call, arguments=arguments, outputs=outputs, results=results, steps=(), sources={}
    )
