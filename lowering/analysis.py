"""All of the matching for one Dynamo graph and the bodies inside it, ending in a decision per site.

`analyse` changes nothing, but that it writes out composite functions (see inline) and private
in-place arithmetic (see in_place). `Analysis.apply` puts in the ops that the gate chose.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import fx

from tile_backend.lowering import (
    checkpoint_policy,
    describe,
    failure,
    gate,
    guards,
    handed_in,
    in_place,
    inline,
    rewrite,
    safe_spelling,
    steps,
    verdicts,
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
from tile_backend.lowering.reason import Reason
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
    failures: those of ours that are no site's. changed: the graphs are not as they came.
    """

    sites: tuple[Site, ...]
    anchored: tuple[str, ...]
    unclaimed: tuple[str, ...]
    accepted: tuple[tuple[fx.GraphModule, tuple[Candidate, ...]], ...]
    nesting: Nesting
    overload: str = "default"
    origins: tuple[Origin, ...] = ()
    check: Check | None = None
    failures: tuple[Reason, ...] = ()
    changed: bool = False

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

    def apply(self) -> Analysis:
        """Rewrite every graph; on failure the caller restores them (see tile_backend.backend).

        What is left to Inductor is respelled where Inductor would misread it. Returns what then is
        in the graphs: a site whose op cannot be put in is declined.
        """
        with failure.noted() as notes, guards.none_added(self.accepted[-1][0].graph):
            if self.ops:
                modules = [module for module, _ in self.accepted]
                what = "reading a policy of checkpointing"
                failure.instead(None, what, None, checkpoint_policy.apply_to, modules)
            hands_in = handed_in.HandsIn(self.nesting)
            failed, changed = list[tuple[Candidate, Reason]](), self.changed
            for module, candidates in self.accepted:
                graph, given = module.graph, (self.overload, self.check, hands_in.inside)
                failed += rewrite.apply(graph, candidates, *given)
                respelled = safe_spelling.respell(graph)
                if candidates or respelled or notes or graph in hands_in.changed:
                    module.recompile()
                    changed = True
        left = dataclasses.replace(
            self, failures=(*self.failures, *notes), changed=changed or self.changed
        )
        return left.without({candidate.root: reason for candidate, reason in failed})

    def without(self, failed: Mapping[fx.Node, Reason]) -> Analysis:
        """Where the candidates with these roots are declined."""
        if not failed:
            return self
        accepted = tuple(
            (module, tuple(c for c in some if c.root not in failed))
            for module, some in self.accepted
        )
        chosen = [
            o if isinstance(o, Candidate) and o.reason is None else None for o in self.origins
        ]
        reasons = [failed.get(candidate.root) if candidate else None for candidate in chosen]
        pairs = zip(self.sites, reasons, strict=True)
        sites = tuple(site if why is None else describe.failed(site, why) for site, why in pairs)
        return dataclasses.replace(self, sites=sites, accepted=accepted)


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
    with failure.noted() as notes:
        sites: list[tuple[Site, Origin]] = []
        anchored, unclaimed = set[str](), set[str]()
        accepted = []
        parts = list(bodies(module))
        written_out = sum([inline.inline(part) + in_place.functionalise(part) for part in parts])
        nesting = Nesting(part.graph for part in parts)
        judge_all = functools.partial(verdicts.judge, nesting, kernels, compiles, means)
        for part in parts:
            reaches = functools.partial(handed_in.possible, nesting, graph=part.graph)
            canonical = CanonicalGraph(part.graph, nesting.readers(part.graph), reaches)
            may = drops if part is module else frozenset[str]()
            found, searched, candidates = analyse_one(
                canonical, registry, allows, kernels, judge_all, may
            )
            sites += found
            anchored |= searched.anchored
            unclaimed |= searched.unclaimed
            accepted.append((part, candidates))
    return Analysis(
        tuple(site for site, _ in sites),
        tuple(sorted(anchored)),
        tuple(sorted(unclaimed)),
        tuple(accepted),
        nesting,
        verdicts.overload_for(kernels),
        tuple(origin for _, origin in sites),
        failures=tuple(notes),
        changed=written_out > 0 or bool(notes),
    )


def analyse_one(
    canonical: CanonicalGraph,
    registry: Registry,
    allows: Allows,
    kernels: str,
    judge_all: Callable[[Sequence[Candidate]], list[Verdict | Reason]],
    drops: frozenset[str] = frozenset(),
) -> tuple[list[tuple[Site, Origin]], Searched, tuple[Candidate, ...]]:
    """The sites in program order with their origins, what was searched, and what is put in."""
    planned = merge(plan(canonical, registry.matcher, allows, drops), canonical)
    planned = dataclasses.replace(planned, chosen=in_steps(planned.chosen, kernels))
    searched = registry.near_misses.search(canonical, registry.fusions, planned.covered)
    order = canonical.effects.position
    placed: list[tuple[fx.Node, Site, Origin]] = []
    put_in: list[Candidate] = []
    for candidate, verdict in zip(planned.chosen, judge_all(planned.chosen), strict=True):
        site = described(candidate, verdict)
        if isinstance(site, Reason):
            candidate = dataclasses.replace(candidate, call=None, reason=site)
            site = left_as_it_is(candidate)
        elif isinstance(verdict, Verdict) and (verdict.put_in or verdict.decision.respelled):
            put_in.append(dataclasses.replace(candidate, plain=not verdict.put_in))
        placed.append((candidate.root, site, candidate))
    placed += [(c.root, left_as_it_is(c), c) for c in planned.declined]
    placed += [(miss.root, almost(miss, canonical), miss) for miss in searched.misses]
    placed += [(node, site, None) for node, site in left_alone(canonical.graph, registry)]
    placed.sort(key=lambda place: order[place[0]])
    return [(site, origin) for _, site, origin in placed], searched, tuple(put_in)


DESCRIBING = "describing it"


def described(candidate: Candidate, verdict: Verdict | Reason) -> Site | Reason:
    """The site of a candidate that was chosen, or what failed on the way."""
    if isinstance(verdict, Reason):
        return verdict
    return failure.tried(DESCRIBING, candidate.root, describe.fused, candidate, verdict)


def left_as_it_is(candidate: Candidate) -> Site:
    """The site of a candidate that was declined."""
    root, spelling = candidate.root, candidate.match.pattern.spelling.title
    site = failure.instead(None, DESCRIBING, root, describe.declined, candidate)
    return site or describe.bare(candidate.fusion, "declined", root, spelling, candidate.reason)


def almost(miss: NearMiss, canonical: CanonicalGraph) -> Site:
    """The site of a near miss."""
    fusion, spelling = miss.pattern.fusion.name, miss.pattern.spelling.title
    site = failure.instead(None, DESCRIBING, miss.root, describe.near_miss, miss, canonical)
    return site or describe.bare(fusion, "near-miss", miss.root, spelling, miss.reason)


def in_steps(candidates: Sequence[Candidate], kernels: str) -> tuple[Candidate, ...]:
    """With the ops that serve their calls better than one, where ops go in at all."""
    what = "dividing it into steps"
    return tuple(
        failure.instead(candidate, what, candidate.root, divided, candidate, kernels)
        for candidate in candidates
    )


def divided(candidate: Candidate, kernels: str) -> Candidate:
    call = candidate.call
    if call is None or gate.leaves(call, kernels):
        return candidate
    device = gate.device_of(call)
    number = gate.multiprocessors(device)
    number = steps.multiprocessors_for(call, number, gate.architecture(device))
    found = steps.divided(candidate.match.fusion, call, number)
    return dataclasses.replace(candidate, call=dataclasses.replace(call, steps=found))


def left_alone(graph: fx.Graph, registry: Registry) -> Iterator[tuple[fx.Node, Site]]:
    """The higher-order ops that some fusion leaves to Inductor."""
    reasons = {name: (f.name, reason) for f in registry.fusions for name, reason in f.left.items()}
    for node in graph.nodes:
        is_body = isinstance(node.target, torch._ops.HigherOrderOperator)
        if is_body and node.target.name() in reasons:
            given = node, *reasons[node.target.name()]
            site = failure.instead(None, DESCRIBING, node, describe.left, *given)
            fusion, reason = reasons[node.target.name()]
            yield node, site or describe.bare(fusion, "declined", node, reason=reason)


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
