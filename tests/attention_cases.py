"""Every form of attention that its ops know, as arguments: small, odd sizes, rows that see nothing.

`FORMS[name](dtype)` makes the arguments of one call, of `attention` or `attention_with_lse`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tile_backend.lowering.custom_op import define
from tile_backend.patterns import _attention_math as math_of
from tile_backend.patterns import all_fusions

define(all_fusions())

Arguments = dict[str, Any]
TENSORS = ("mask", "padding", "segments", "offset", "sinks")
LOWEST = torch.finfo(torch.float32).min
FILLS = (None, -math.inf, LOWEST, torch.finfo(torch.bfloat16).min, -1e4, -3.0)


def heads(
    dtype: torch.dtype,
    sizes: tuple[int, int] = (37, 150),
    count: tuple[int, int] = (4, 2),
    widths: tuple[int, int] = (48, 40),
    batch: int = 2,
    **given: Any,
) -> Arguments:
    """sizes: queries, keys. count: heads of q, of k. widths: of k, of v. Laid out [B, S, H, D]."""
    generator = torch.Generator().manual_seed(sum(sizes) + sum(count))

    def random(n: int, positions: int, width: int) -> torch.Tensor:
        made = torch.randn(batch, positions, n, width, generator=generator).to(dtype)
        return made.transpose(1, 2)

    made = {
        "q": random(count[0], sizes[0], widths[0]),
        "k": random(count[1], sizes[1], widths[0]),
        "v": random(count[1], sizes[1], widths[1]),
    }
    numbers = {"is_causal": False, "start": 0, "window": None, "chunk": None, "softcap": None}
    scale = {"scale": widths[0] ** -0.5}
    words = {"fill": None, "form": math_of.SDPA}
    return {**made, **dict.fromkeys(TENSORS), **scale, **numbers, **words, **given}


def padded(*shown: tuple[int, int], keys: int = 150) -> torch.Tensor:
    """One row for each (first shown, after the last shown)."""
    key = torch.arange(keys)
    return torch.stack([(key >= first) & (key < stop) for first, stop in shown])


def documents(*lengths: int, rows: int = 1) -> torch.Tensor:
    """Numbers of packed documents, one for each position; those of the second row count down."""
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return torch.stack([ids, len(lengths) - ids])[:rows]


def some_of(*shape: int) -> torch.Tensor:
    """A mask that shows two of three keys, and none to the first query."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[..., 0, :] = False
    return mask


def added(finite: bool, dtype: torch.dtype) -> torch.Tensor:
    """`some_of` as numbers that are added."""
    low = torch.finfo(dtype).min if finite else -math.inf
    mask = some_of(2, 4, 150, 150)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, low)


def sinks(dtype: torch.dtype, count: int = 4) -> torch.Tensor:
    return torch.linspace(-2, 3, count).to(dtype)


DECODE: Mapping[str, Any] = {"sizes": (1, 150), "is_causal": True}
SQUARE: Mapping[str, Any] = {"sizes": (150, 150), "is_causal": True}
LEFT, RIGHT = padded((40, 150), (101, 150)), padded((0, 70), (0, 1))
ALIKE = documents(20, 64, 1, 65, rows=2)


def everything(dtype: torch.dtype, **given: Any) -> Arguments:
    """Each rule, a soft cap and sinks at once."""
    together = {
        "window": 60,
        "chunk": 100,
        "segments": ALIKE,
        "padding": padded((9, 130), (60, 150)),
        "softcap": 5.0,
        "sinks": sinks(torch.float32),
        "mask": some_of(2, 1, 150, 150),
    }
    return heads(dtype, **SQUARE, **{**together, **given})


def of_positions() -> dict[str, Callable[[torch.dtype], Arguments]]:
    """Rules that only look at where queries and keys stand."""
    made: dict[str, Callable[[torch.dtype], Arguments]] = {}

    def add(name: str, **given: Any) -> None:
        made[name] = functools.partial(heads, **given)

    for start in (0, 113, -20):
        add(f"causal from {start}", is_causal=True, start=start)
    add("more queries than keys", sizes=(150, 37), is_causal=True)
    for window, causal in itertools.product((1, 20, 64, 10_000), (True, False)):
        add(f"window {window} {causal}", **{**SQUARE, "is_causal": causal}, window=window)
    add("window of nothing", **SQUARE, window=0)
    add("window past the keys", sizes=(37, 70), window=5, start=60)
    for chunk in (1, 32, 50, 10_000):
        add(f"chunk {chunk}", **SQUARE, chunk=chunk)
    add("chunk and window", **SQUARE, chunk=48, window=20)
    add("chunk of negative positions", sizes=(37, 70), chunk=16, start=-20)
    for offset in (0, 1, 63, 64, 112):
        at = torch.tensor([offset], dtype=torch.int32 if offset % 2 else torch.int64)
        add(f"prefill at {offset}", is_causal=True, offset=at)
        add(f"decode at {offset}", **DECODE, offset=at.reshape(()), start=3)
    add("decode of a window", **DECODE, offset=torch.tensor(140), window=70, sinks=sinks)
    add("one head decodes", **DECODE, offset=torch.tensor(99), count=(2, 2))
    return made


def of_fills() -> dict[str, Callable[[torch.dtype], Arguments]]:
    """Every meaning of a row that sees nothing."""
    made: dict[str, Callable[[torch.dtype], Arguments]] = {}

    def add(name: str, function: Callable[..., Arguments] = heads, **given: Any) -> None:
        made[name] = functools.partial(function, **given)

    nobody = padded((0, 0), (30, 90))
    for fill in FILLS:
        add(f"left padding {fill}", **SQUARE, padding=LEFT, fill=fill)
        add(f"nobody {fill}", padding=nobody, fill=fill)
        add(f"mask {fill}", **SQUARE, mask=some_of(2, 4, 150, 150), fill=fill)
        add(f"mask of keys {fill}", mask=nobody[:, None, None, :], window=40, fill=fill)
        add(f"segments {fill}", **SQUARE, segments=ALIKE, padding=LEFT[:1], fill=fill)
        add(f"sinks {fill}", padding=nobody, sinks=sinks, fill=fill)
        add(f"no rule {fill}", fill=fill)
        add(f"everything {fill}", everything, fill=fill)
        add(f"too far {fill}", sizes=(37, 70), window=5, start=60, fill=fill)
    return made


def of_tensors() -> dict[str, Callable[[torch.dtype], Arguments]]:
    """Rules that tensors say."""
    made: dict[str, Callable[[torch.dtype], Arguments]] = {}

    def add(name: str, **given: Any) -> None:
        made[name] = functools.partial(heads, **given)

    nobody = padded((0, 0), (30, 90))
    add("right padding", **SQUARE, padding=RIGHT)
    add("holes", padding=some_of(2, 2, 150)[:, 1])
    add("one row of padding", padding=LEFT[1:])
    some = padded((3, 60), (0, 70), keys=70)
    add("padding behind which queries stand", sizes=(37, 70), window=5, start=300, padding=some)
    add("segments of int32", **SQUARE, segments=ALIKE.int())
    add("segments for all", **{**SQUARE, "is_causal": False}, segments=ALIKE[:1])
    add("segments in disorder", **SQUARE, segments=torch.tensor([[3, 1] * 75, [5, 2, 9] * 50]))
    add("segments far apart", **SQUARE, segments=ALIKE * 2**40)
    add("segments from an offset", segments=ALIKE, offset=torch.tensor([100]), is_causal=True)
    add("decode of segments", **DECODE, segments=ALIKE, offset=torch.tensor([100]))
    add("decode of padding", **DECODE, padding=LEFT, offset=torch.tensor([149]), sinks=sinks)
    add("decode of a mask", sizes=(1, 150), mask=some_of(2, 4, 2, 150)[:, :, 1:])
    for finite in (False, True):
        bias = functools.partial(added, finite)
        name = "lowest" if finite else "-inf"
        add(f"added {name}", **SQUARE, mask=bias)
        add(f"added by hand {name}", **SQUARE, mask=bias, fill=-math.inf, window=30)
        wide = bias(torch.float32)
        add(f"added and capped {name}", **SQUARE, mask=wide, softcap=3.0, sinks=sinks)
    add("mask of keys for each head", **SQUARE, mask=some_of(4, 2, 150)[:, 1:])
    add("mask of keys and padding", mask=some_of(2, 150)[1:], padding=LEFT)
    add("causal mask and rule", **SQUARE, mask=some_of(150, 150))
    add("sinks", **SQUARE, sinks=sinks)
    add("sink of -inf", padding=nobody, sinks=torch.tensor([0.0, -math.inf, 1, -math.inf]))
    add("sink of -inf and mean", padding=nobody, sinks=torch.full((4,), -math.inf), fill=LOWEST)
    add("soft cap", softcap=2.0)
    add("wide soft cap", softcap=50.0, scale=3.0)
    return made


def kind(form: str) -> str:
    """The name of a form without its numbers: forms of one kind differ in nothing else."""
    return " ".join(word for word in form.split() if word.isalpha() and word != "None")


def with_dtype(form: Callable[[torch.dtype], Arguments], dtype: torch.dtype) -> Arguments:
    """Its arguments; those that are a function are made in that dtype."""
    return {n: value(dtype) if callable(value) else value for n, value in form(dtype).items()}


FORMS: Mapping[str, Callable[[torch.dtype], Arguments]] = {
    name: functools.partial(with_dtype, form)
    for name, form in {**of_positions(), **of_fills(), **of_tensors()}.items()
}
