"""What runs at each site of one graph: the gate's answers, with the kernels' code at hand.

A failure at one site is the answer for that site (a Reason of the kind `internal_failure`), and
touches no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import fx

from tile_backend.lowering import (
    choice,
    custom_op,
    failure,
    gate,
    rewrite,
    site_kernels,
)
from tile_backend.lowering.choice import Means
from tile_backend.lowering.gate import Verdict
from tile_backend.lowering.legality import Call
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import shape, strides
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site import Decision


def judge(
    nesting: Nesting, kernels: str, compiles: bool, means: Means, candidates: Sequence[Candidate]
) -> list[Verdict | Reason]:
    """What runs at each site of one graph, with its kernel's code at hand; or what failed."""
    out: dict[fx.Node, Reason] = {}

    def those(
        what: str, asks: Callable[[Candidate], bool], some: Sequence[Candidate]
    ) -> tuple[Candidate, ...]:
        """For which the answer is yes. What fails is the end of the one that was asked about."""
        answers = [(c, failure.tried(what, c.root, asks, c)) for c in some if c.root not in out]
        out.update((c.root, answer) for c, answer in answers if isinstance(answer, Reason))
        return tuple(c for c, answer in answers if answer is True)

    defined = those("defining its ops", defines, candidates)
    weighed = those("weighing it", lambda c: gate.weighs(call_of(c), kernels), defined)
    able = those("planning its kernels", lambda c: gate.able(call_of(c)), weighed)
    if means.measuring is not None:
        what = "making the kernels to be measured"
        able = tuple(failure.instead([], what, None, site_kernels.with_code, able))
    left = tuple(c for c in weighed if c.root not in out)
    found = failure.tried("weighing the sites", None, choice.choose, left, able, nesting, means)
    out |= dict.fromkeys((c.root for c in left), found) if isinstance(found, Reason) else {}
    wanted = {} if isinstance(found, Reason) else found

    def decided(c: Candidate) -> Verdict | Reason:
        chosen = out.get(c.root) or wanted.get(c.root)
        if isinstance(chosen, Reason):
            return chosen
        return for_all_sizes(c, gate.decide(c.match.fusion, call_of(c), kernels, chosen), kernels)

    verdicts = [failure.tried("deciding what runs", c.root, decided, c) for c in candidates]
    calls = [call_of(c) for c in candidates]
    given = calls, verdicts, kernels, compiles
    settled = failure.tried("making its kernels", None, site_kernels.settle, *given)
    if not isinstance(settled, Reason):
        return settled
    launches = [isinstance(v, Verdict) and v.decision == "kernel" for v in verdicts]
    return [settled if gone else v for gone, v in zip(launches, verdicts, strict=True)]


def defines(candidate: Candidate) -> bool:
    """What an op is made of goes by name, so these have to be there."""
    fusion = candidate.match.fusion
    if any(op.composed for op in fusion.ops):
        custom_op.define([fusion])
    return True


def call_of(candidate: Candidate) -> Call:
    """What stands for a candidate that was chosen."""
    assert candidate.call is not None
    return candidate.call


def for_all_sizes(candidate: Candidate, verdict: Verdict, kernels: str) -> Verdict | Reason:
    """The verdict, if the new code is right for every size that the program leaves open."""
    respelled = verdict.decision.respelled
    if not (verdict.put_in or respelled) or not is_dynamic(candidate):
        return verdict
    custom_op.define([candidate.match.fusion])
    plain = dataclasses.replace(candidate, plain=not verdict.put_in)
    what = "making the new code"
    found = failure.tried(what, candidate.root, rehearsed, plain, overload_for(kernels))
    if found is None or found.kind is ReasonKind.INTERNAL_FAILURE:
        return verdict if found is None else found
    kept = Decision("reference", found.text, basis="limit")
    return Verdict(kept, put_in=False, fallback=None if respelled else found)


def rehearsed(candidate: Candidate, overload: str) -> Reason | None:
    """Why torch does not know the sizes in the new code for all calls. Raises NewGuard where it
    would have to ask for more; it may also go on with what is right for most sizes, and fail.
    """
    try:
        rewrite.rehearse(candidate, overload)
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise
        text = f"torch cannot tell its sizes for all calls: {failure.said(error)}"
        return Reason(ReasonKind.SHAPE_UNPROVABLE, text, candidate.root.name)
    return None


def is_dynamic(candidate: Candidate) -> bool:
    """Whether a size of what its op reads is a symbol."""
    given = call_of(candidate).arguments.values()
    tensors = (a for a in given if isinstance(a, torch.Tensor))
    return any(not isinstance(n, int) for t in tensors for n in (*shape(t), *strides(t)))


def overload_for(kernels: str) -> str:
    """Of the ops that go in, see custom_op."""
    return custom_op.INTERPRETED if kernels == "interpret" else "default"
