"""All of the matching for one Dynamo graph and the bodies inside it, ending in a decision per site.

`analyse` changes nothing, but that it writes out composite functions (see inline) and private
in-place arithmetic (see in_place). `Analysis.apply` puts in the ops that the gate chose.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import fx

from tile_backend.lowering import (
    checkpoint_policy,
    choice,
    custom_op,
    describe,
    gate,
    handed_in,
    in_place,
    inline,
    rewrite,
    safe_spelling,
    site_kernels,
    steps,
)
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.check_request import Check
from tile_backend.lowering.choice import Means
from tile_backend.lowering.gate import Verdict
from tile_backend.lowering.merge import merge
from tile_backend.lowering.near_miss import NearMiss, Searched
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import value
from tile_backend.lowering.plan import Allows, Candidate, plan
from tile_backend.lowering.registry import Registry
from tile_backend.lowering.site import Site

Origin = Candidate | NearMiss | None
NOTHING_MEASURED = Means()


@dataclasses.dataclass(frozen=True)
class Analysis:
    """sites: in program order, bodies first. anchored: fusions whose anchors occur; unclaimed:
    those of which one is part of no site.

    accepted: per graph, the candidates whose op goes in. overload: of these ops, see custom_op.
    nesting: how the graphs call each other. check: what is asked of the ops' results at run time.
    origins: what each of the sites is made from; None for an op that is left alone.
    """

    sites: tuple[Site, ...]
    anchored: tuple[str, ...]
    unclaimed: tuple[str, ...]
    accepted: tuple[tuple[fx.GraphModule, tuple[Candidate, ...]], ...]
    nesting: Nesting
    overload: str = "default"
    origins: tuple[Origin, ...] = ()
    check: Check | None = None

    @property
    def ops(self) -> int:
        """How many ops of ours go in; plain PyTorch in the place of the original ops is none."""
        calls = (c.call for _, candidates in self.accepted for c in candidates if not c.plain)
        return sum(len(call.launched) for call in calls if call is not None)

    @property
    def dropped(self) -> tuple[int, ...]:
        """The places among the results of the whole graph that nothing computes any more."""
        found = {at for _, candidates in self.accepted for c in candidates for at in c.dropped_at}
        return tuple(sorted(found))

    def apply(self) -> None:
        """Rewrite every graph; on failure the caller restores them (see tile_backend.backend).

        What is left to Inductor is respelled where Inductor would misread it.
        """
        if self.ops:
            checkpoint_policy.apply_to(module for module, _ in self.accepted)
        hands_in = handed_in.HandsIn(self.nesting)
        ready = [(m, hands_in.candidates(m.graph, given)) for m, given in self.accepted]
        for module, candidates in ready:
            rewrite.apply(module.graph, candidates, self.overload, self.check)
            respelled = safe_spelling.respell(module.graph)
            if candidates or respelled or module.graph in hands_in.changed:
                module.recompile()


def analyse(
    module: fx.GraphModule,
    registry: Registry,
    allows: Allows,
    kernels: str,
    compiles: bool = False,
    drops: frozenset[str] = frozenset(),
    means: Means = NOTHING_MEASURED,
) -> Analysis:
    """kernels: the option tilegym.kernels. compiles: kernels are compiled, not only looked for.

    drops: the fusions that may drop what the model returns (Fusion.drops). means: of evidence.
    """
    sites: list[tuple[Site, Origin]] = []
    anchored, unclaimed = set[str](), set[str]()
    accepted = []
    parts = list(bodies(module))
    for part in parts:
        inline.inline(part)
        in_place.functionalise(part)
    nesting = Nesting(part.graph for part in parts)
    for part in parts:
        reaches = functools.partial(handed_in.possible, nesting, graph=part.graph)
        canonical = CanonicalGraph(part.graph, nesting.readers(part.graph), reaches)
        may = drops if part is module else frozenset[str]()
        judge_all = functools.partial(judge, nesting, kernels, compiles, means)
        found, searched, candidates = analyse_one(
            canonical, registry, allows, kernels, judge_all, may
        )
        sites += found
        anchored |= searched.anchored
        unclaimed |= searched.unclaimed
        accepted.append((part, candidates))
    overload = custom_op.INTERPRETED if kernels == "interpret" else "default"
    return Analysis(
        tuple(site for site, _ in sites),
        tuple(sorted(anchored)),
        tuple(sorted(unclaimed)),
        tuple(accepted),
        nesting,
        overload,
        tuple(origin for _, origin in sites),
    )


def analyse_one(
    canonical: CanonicalGraph,
    registry: Registry,
    allows: Allows,
    kernels: str,
    judge_all: Callable[[Sequence[Candidate]], list[Verdict]],
    drops: frozenset[str] = frozenset(),
) -> tuple[list[tuple[Site, Origin]], Searched, tuple[Candidate, ...]]:
    """The sites in program order with their origins, what was searched, and what is put in."""
    planned = merge(plan(canonical, registry.matcher, allows, drops), canonical)
    planned = dataclasses.replace(planned, chosen=in_steps(planned.chosen, kernels))
    verdicts = judge_all(planned.chosen)
    searched = registry.near_misses.search(canonical, registry.fusions, planned.covered)
    order = canonical.effects.position
    placed: list[tuple[fx.Node, Site, Origin]] = [
        (candidate.root, describe.fused(candidate, verdict), candidate)
        for candidate, verdict in zip(planned.chosen, verdicts, strict=True)
    ]
    placed += [(c.root, describe.declined(c), c) for c in planned.declined]
    placed += [(miss.root, describe.near_miss(miss, canonical), miss) for miss in searched.misses]
    placed += [(node, site, None) for node, site in left_alone(canonical.graph, registry)]
    placed.sort(key=lambda place: order[place[0]])
    put_in = tuple(
        dataclasses.replace(candidate, plain=not verdict.put_in)
        for candidate, verdict in zip(planned.chosen, verdicts, strict=True)
        if verdict.put_in or verdict.decision.respelled
    )
    return [(site, origin) for _, site, origin in placed], searched, put_in


def in_steps(candidates: Sequence[Candidate], kernels: str) -> tuple[Candidate, ...]:
    """With the ops that serve their calls better than one, where ops go in at all."""
    found = []
    for candidate in candidates:
        call = candidate.call
        if call is not None and not gate.leaves(call, kernels):
            device = gate.device_of(call)
            number = gate.multiprocessors(device)
            number = steps.multiprocessors_for(call, number, gate.architecture(device))
            divided = steps.divided(candidate.match.fusion, call, number)
            candidate = dataclasses.replace(
                candidate, call=dataclasses.replace(call, steps=divided)
            )
        found.append(candidate)
    return tuple(found)


def left_alone(graph: fx.Graph, registry: Registry) -> Iterator[tuple[fx.Node, Site]]:
    """The higher-order ops that some fusion leaves to Inductor."""
    reasons = {name: (f.name, reason) for f in registry.fusions for name, reason in f.left.items()}
    for node in graph.nodes:
        is_body = isinstance(node.target, torch._ops.HigherOrderOperator)
        if is_body and node.target.name() in reasons:
            yield node, describe.left(node, *reasons[node.target.name()])


def judge(
    nesting: Nesting, kernels: str, compiles: bool, means: Means, candidates: Sequence[Candidate]
) -> list[Verdict]:
    """What runs at each site of one graph, with its kernel's code at hand."""
    fusions = [c.match.fusion for c in candidates]
    # What an op is made of goes by name.
    custom_op.define(f for f in fusions if any(op.composed for op in f.ops))
    pairs = [(c, c.call) for c in candidates if c.call is not None]
    weighed = [c for c, call in pairs if gate.weighs(call, kernels)]
    able = [c for c, call in pairs if gate.weighs(call, kernels) and gate.able(call)]
    if means.measuring is not None:
        able = site_kernels.with_code(able)
    wanted = choice.choose(weighed, able, nesting, means)
    verdicts = [gate.decide(c.match.fusion, call, kernels, wanted.get(c.root)) for c, call in pairs]
    return site_kernels.settle([call for _, call in pairs], verdicts, kernels, compiles)


def bodies(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The graph and the bodies of its higher-order ops, innermost first, each once."""
    seen: set[int] = set()

    def visit(part: fx.GraphModule) -> Iterator[fx.GraphModule]:
        if id(part) in seen:
            return
        seen.add(id(part))
        for node in part.graph.find_nodes(op="get_attr"):
            child: object = part
            for name in str(node.target).split("."):
                child = getattr(child, name, None)
            if isinstance(child, fx.GraphModule):
                yield from visit(child)
        yield part

    yield from visit(module)


def example_inputs_of(module: fx.GraphModule) -> list[torch.Tensor]:
    """The fake tensors of the graph's inputs, in order."""
    fakes = [value(node) for node in module.graph.find_nodes(op="placeholder")]
    return [fake for fake in fakes if isinstance(fake, torch.Tensor)]
