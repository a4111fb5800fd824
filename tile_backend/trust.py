"""What `tilegym.numerics="bitwise"` and `tilegym.verify` ask of the rewrites, before they go in.

Each distinct site is run alone, the old code against the new. One that is not bit for bit what
Inductor gives, or fails its certificate, keeps its original code. `explain` runs nothing and does
not come here.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from tile_backend.bisection import is_put_in
from tile_backend.errors import CertificateFailed
from tile_backend.folding import fold_to_text
from tile_backend.inductor_alone import InductorAlone
from tile_backend.lowering import certify, same_bits, trial
from tile_backend.lowering.analysis import Analysis
from tile_backend.lowering.certificate import Certificate
from tile_backend.lowering.check_request import Check
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.same_bits import Bits
from tile_backend.lowering.site import Decision, Site
from tile_backend.options import Options

Answer = TypeVar("Answer")
Given = Mapping[fx.Node, torch.Tensor]
"""What the program was called with, by input of the graph."""


def settled(
    found: Analysis,
    options: Options,
    module: fx.GraphModule,
    inputs: Sequence[object],
    compiles: InductorAlone,
) -> Analysis:
    """The analysis with the rewrites that stand the test, and with what it has shown in the sites.

    compiles: Inductor, with the user's mode and options. Under a strict mode an error in a test is
    raised; else the site has no certificate.
    """
    given = real_inputs(module, inputs)
    if options.numerics == "bitwise":
        judge = functools.partial(same_bits.compared, compiles=compiles)
        known = same_bits.known.setdefault(compiles.identity, {})
        bits = answers(found, given, judge, known, "comparisons")
        pairs = zip(put_in(found), bits, strict=True)
        found = changed(found, [bit_for_bit(site, answer) for site, answer in pairs])
    if options.verify != "off":
        shown = answers(found, given, certify.judge, certify.known, "certificates")
        if options.strict != "off":
            raise_mistakes(shown)
        both = zip(put_in(found), shown, strict=True)
        found = changed(found, [certified(site, answer) for site, answer in both])
        warn_of_failures(found.sites)
    if options.verify == "always":
        check = Check(raises=options.strict != "off", folder=options.report_dir or "")
        found = dataclasses.replace(found, check=check)
    return found


def real_inputs(module: fx.GraphModule, inputs: Sequence[object]) -> Given:
    """Those inputs that hold numbers."""
    places = module.graph.find_nodes(op="placeholder")
    return {
        place: tensor
        for place, tensor in zip(places, inputs, strict=False)
        if isinstance(tensor, torch.Tensor) and not isinstance(tensor, FakeTensor)
    }


def put_in(found: Analysis) -> list[Site]:
    """The sites of the candidates in `accepted`, in the same order."""
    return [site for site in found.sites if is_put_in(site)]


def answers(
    found: Analysis,
    given: Given,
    judge: Callable[[trial.Trial], Answer],
    known: dict[Hashable, Answer],
    what: str,
) -> list[Answer | Exception]:
    """What `judge` says of each of these sites."""
    candidates = [candidate for _, some in found.accepted for candidate in some]
    return trial.of_each(candidates, found.nesting, found.overload, given, judge, known, what)


def changed(found: Analysis, sites: Sequence[Site]) -> Analysis:
    """sites: what became of those in `put_in`. One that keeps its code loses its candidate."""
    goes_in = iter([is_put_in(site) for site in sites])
    accepted = tuple(
        (module, tuple(candidate for candidate in some if next(goes_in)))
        for module, some in found.accepted
    )
    new = iter(sites)
    every = tuple(next(new) if is_put_in(site) else site for site in found.sites)
    return dataclasses.replace(found, sites=every, accepted=accepted)


def bit_for_bit(site: Site, answer: Bits | Exception) -> Site:
    """As it is, or left to Inductor, which is no fallback: the user asked for its bits."""
    if isinstance(answer, Exception):
        why = certify.without(answer).text
        return left(site, f"its bits could not be compared with those of Inductor's code: {why}")
    if answer.differing:
        figures = f"{answer.differing} of {answer.values} values"
        return left(site, f"it differs from Inductor's code in {figures}")
    return site


def certified(site: Site, answer: Certificate | Exception) -> Site:
    """With its certificate; with the original code, where it failed."""
    shown = certify.without(answer) if isinstance(answer, Exception) else answer
    site = dataclasses.replace(site, certificate=shown)
    if shown.verdict != "failed":
        return site
    where = f"{{{site.fusion!r}: [{site.module!r}]}}" if site.module else f"{site.fusion!r}"
    reason = Reason(
        ReasonKind.VERIFY_FAILED,
        f"its certificate failed: {shown.text}",
        fix=f"report it, and leave the site out with tilegym.exclude={where}",
    )
    return dataclasses.replace(left(site, reason.text), fallback=reason)


def left(site: Site, evidence: str) -> Site:
    """With its original code."""
    decision = Decision("reference", evidence, op_in_graph=False, basis="option")
    return dataclasses.replace(site, decision=decision, kernels=())


def raise_mistakes(shown: Sequence[object]) -> None:
    """Raise the first error that is ours."""
    for answer in shown:
        if isinstance(answer, Exception) and certify.is_ours(answer):
            raise answer


def warn_of_failures(sites: Sequence[Site]) -> None:
    """One warning for all sites of a fusion that failed alike."""
    failed: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        if site.certificate is not None and site.certificate.verdict == "failed":
            failed.setdefault((site.fusion, site.certificate.text), []).append(site)
    for (fusion, text), some in failed.items():
        modules = fold_to_text(site.module for site in some) or "the function itself"
        warnings.warn(
            CertificateFailed(fusion=fusion, modules=modules, source=some[0].source, text=text),
            stacklevel=2,
        )
