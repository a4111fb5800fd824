"""Masks of attention, as programs compute them, read them from an input, and share them.

A mask is "visible" (bool, True where a key is seen), "hidden" (the opposite) or "additive" (0 where
seen). It broadcasts against [B, H, S, L]; for a spelling of three dimensions against [N, S, L].
"""

from __future__ import annotations

from collections.abc import Generator

import torch

from tests.fuzz.draft import Dims, Draft

Making = Generator[None, None, str]
SHARED = 60
"""In a hundred masks, those that some site has before."""
FORMS = {"mask": "additive", "masked": "hidden", "visible": "visible"}
KIND = "mask"


def mask(s: Draft, hole: str, boolean: bool) -> Making:
    """hole: the operand of a spelling. boolean: an additive mask may be a visible one as well."""
    form, flat = FORMS[hole.removesuffix("3")], hole.endswith("3")
    if form == "additive" and boolean and s.chance(40):
        form = "visible"
    known = [name for name in s.masks.get((form, flat), ()) if name in s.values]
    if known and s.chance(SHARED):
        return s.pick(known[::-1])
    made = yield from {"visible": visible, "hidden": hidden, "additive": additive}[form](s, flat)
    s.masks.setdefault((form, flat), []).append(made)
    return made


def visible(s: Draft, flat: bool) -> Making:
    way = s.pick(("tril", "compared", "padding", "both", "window", "input", "segments"))
    if way in ("tril", "compared", "window"):
        return (yield from causal(s, way))
    if way == "input":
        dims: Dims = (1, "S", "L") if flat else ("B", 1, "S", "L")
        return s.need("seen", dims, torch.bool)
    if way == "segments" and s.sizes["S"] == s.sizes["L"]:
        ids = s.need("ids", ("B", "S"), torch.bool)
        yield
        return s.let("same", f"{ids}[:1, :, None] == {ids}[:1, None, :]", KIND)
    pad = s.need("pad", ("B", "L"), torch.bool)
    keys = f"{pad}[:1, None, :]" if flat else f"{pad}[:, None, None, :]"
    if way != "both":
        return s.let("keys", keys, KIND)
    before = yield from causal(s, "tril")
    yield
    return s.let("both", f"{before} & {keys}", KIND)


def causal(s: Draft, way: str) -> Making:
    if way == "tril":
        offset = s.pick(("", "L - S"))
        return s.let("before", f"torch.ones(S, L, dtype=torch.bool).tril({offset})", KIND)
    queries = s.let("queries", "torch.arange(S)[:, None]", KIND)
    yield
    keys = s.let("keys", "torch.arange(L)[None, :]", KIND)
    yield
    before = s.let("before", f"{queries} >= {keys}", KIND)
    if way == "compared":
        return before
    yield
    return s.let("window", f"{before} & ({queries} - {keys} < 3)", KIND)


def hidden(s: Draft, flat: bool) -> Making:
    if s.chance(40):
        return s.let("later", "torch.ones(S, L, dtype=torch.bool).triu(1)", KIND)
    seen = yield from visible(s, flat)
    yield
    return s.let("hidden", s.pick((f"~{seen}", f"{seen}.logical_not()", f"{seen} == False")), KIND)


def additive(s: Draft, flat: bool) -> Making:
    way = s.pick(("where", "triu", "filled", "times", "input"))
    dtype = str(s.dtype)
    least = s.pick(("float('-inf')", f"torch.finfo({dtype}).min"))
    if way == "input":
        dims: Dims = (1, "S", "L") if flat else ("B", 1, "S", "L")
        return s.need("bias", dims, s.dtype, "additive")
    if way == "triu":
        return s.let("later", f"torch.full((S, L), {least}, dtype={dtype}).triu(1)", KIND)
    seen = yield from visible(s, flat)
    yield
    if way == "where":
        zero = f"torch.zeros((), dtype={dtype})"
        return s.let("bias", f"torch.where({seen}, {zero}, {least})", KIND)
    if way == "times":
        text = f"(1.0 - {seen}.to({dtype})) * torch.finfo({dtype}).min"
        return s.let("bias", text, KIND)
    zeros = s.let("zeros", f"torch.zeros({seen}.shape, dtype={dtype})", KIND)
    yield
    if s.chance(50):
        return s.let("bias", f"{zeros}.masked_fill(~{seen}, {least})", KIND)
    s.do(f"{zeros}.masked_fill_(~{seen}, {least})", KIND)
    return zeros
