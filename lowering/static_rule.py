"""What the gate goes by while nothing has been measured: bytes, operations, launches and waves.

Both sides are modelled alike (see work), Inductor's rather better than it is. A way with ops of
ours is taken only where the model sees a clear gain: a fifth of the time, or, at no more time, a
large value that is not written to memory. All else is Inductor's, a tie as well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering import meta
from tile_backend.lowering.custom_op import define
from tile_backend.lowering.device import Gpu
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.kernels_known import blocks_of
from tile_backend.lowering.legality import Call
from tile_backend.lowering.meta import without_fakes
from tile_backend.lowering.recorder import work
from tile_backend.lowering.reference import as_tuple
from tile_backend.lowering.signature import declared
from tile_backend.lowering.tuning_entry import INDUCTOR
from tile_backend.lowering.ways import Way, Ways
from tile_backend.lowering.work import Work, size

CLEAR = 0.8
"""Of Inductor's time."""
SAME = 1.05
LARGE = 256 * 2**20
"""Bytes of a value that is worth while not to have."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """chosen: a way. text: the sentence of the report, "estimated: ..."."""

    chosen: Way
    text: str


def estimate(found: Ways, gpu: Gpu) -> Estimate:
    """Of a slice. Raises what the code raises on meta tensors."""
    with without_fakes():
        tensors = [meta.node(node) for node in (*found.inputs, *found.led)]
        works = {
            way: work(functools.partial(code, *tensors), gpu, blocks_of(gpu.arch))
            for way, code in found.codes.items()
        }
    return judged(works, gpu)


def of_call(fusion: Fusion, call: Call, gpu: Gpu) -> Estimate:
    """Of a call whose graph is not at hand: the op against its reference, without neighbours."""
    define([fusion])
    blocks = blocks_of(gpu.arch)
    with without_fakes():
        original = {n: meta.like(a) for n, a in (call.masked or call.arguments).items()}
        given = {n: meta.like(a) for n, a in call.arguments.items()}

    def ours() -> Any:
        overload = getattr(torch.ops.tilegym, call.op.name).default
        return as_tuple(overload(*(given[name] for name in declared(call.op).names)))

    def theirs() -> Any:
        return as_tuple(call.op.reference(**original))

    with without_fakes():
        works = {
            INDUCTOR: work(theirs, gpu, blocks),
            call.op.name: work(ours, gpu, blocks),
        }
    return judged(works, gpu)


def unknown(error: Exception) -> Estimate:
    """Where the model fails."""
    said = (str(error).splitlines() or ["no message"])[0]
    return Estimate(INDUCTOR, f"estimated: nothing is known of it ({type(error).__name__}: {said})")


def judged(works: Mapping[Way, Work], gpu: Gpu) -> Estimate:
    """The fastest way that gains clearly, by the model; of several as good that of fewer ops."""
    theirs = works[INDUCTOR]
    others = sorted(works.keys() - {INDUCTOR}, key=lambda way: works[way].seconds)
    where = f", on {gpu.name}" if gpu.assumed else ""
    winning = [way for way in others if gains(works[way], theirs)]
    if winning:
        most = SAME * works[winning[0]].seconds
        alike = [way for way in winning if works[way].seconds <= most]
        way = min(alike, key=lambda way: way.count("+"))
        named = f"with {way} " if len(others) > 1 else ""
        return Estimate(way, f"estimated: {named}{compared(works[way], theirs)}{where}")
    if not others:
        return Estimate(INDUCTOR, f"estimated: {theirs}{where}")
    ours = works[others[0]]
    return Estimate(INDUCTOR, f"estimated: no clear gain, {compared(ours, theirs)}{where}")


def gains(ours: Work, theirs: Work) -> bool:
    if ours.seconds <= CLEAR * theirs.seconds:
        return True
    return ours.seconds <= SAME * theirs.seconds and saves(ours, theirs)


def saves(ours: Work, theirs: Work) -> bool:
    """Whether a large value does not come to be."""
    return theirs.largest >= LARGE and 2 * ours.largest <= theirs.largest


def compared(ours: Work, theirs: Work) -> str:
    """As "2 launches and 96 MiB against 3 and 160 MiB of Inductor"."""
    text = f"{ours} against {theirs.launches} and {size(theirs.bytes)} of Inductor"
    if not math.isclose(ours.flops, theirs.flops, rel_tol=0.02):
        text += f", {operations(ours.flops)} against {operations(theirs.flops)}"
    if saves(ours, theirs):
        text += f", and the largest value in between has {size(ours.largest)},"
        text += f" not {size(theirs.largest)}"
    return text


def operations(count: float) -> str:
    """As "34.4 GFLOP"."""
    for unit in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    return f"{count:.3g} TFLOP"
