"""Sizes at which a call with dynamic sizes is tried before it runs.

What a kernel takes, and which code it needs, depends on sizes that a dynamic graph does not know:
whether they are multiples of 16, how long a sequence is, whether a grid can hold them. `trials`
names a few that the graph allows, the captured ones first; a kernel that is ready for all of them
is most likely ready for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy

from tile_backend.lowering.tensor_layout import Layout, Trial

STEP = 16
REMAINDERS = (0, 8, 1)
"""By 16: what the divisibility that kernels use can come to for 2-byte and 4-byte elements."""
LARGE = 4096
"""A size beyond the thresholds of every plan, where the graph has no bound of its own."""
UNKNOWN = 2
"""Stands for a size that depends on data, of which the graph knows nothing."""


def trials(layouts: Sequence[Layout], environment: Any) -> list[Trial]:
    """The captured sizes, then neighbours of other divisibility, the least and a large size.

    environment: the ShapeEnv of the graph; not asked where nothing is dynamic.
    """
    symbols = sorted({s for layout in layouts for s in layout.symbols}, key=str)
    if not symbols:
        return [{}]
    known = _captured(environment)
    captured = {symbol: int(known.get(symbol, UNKNOWN)) for symbol in symbols}
    found: list[Trial] = [captured]
    if not known.keys() >= set(symbols):
        return found
    for trial in _candidates(captured, environment):
        possible = _allowed(trial, environment) and all(
            n >= 0 for layout in layouts for n in layout.sizes(trial)
        )
        if possible and trial not in found:
            found.append(trial)
    return found


def described(trial: Trial) -> str:
    """The sizes in words: "s27 = 4096, s53 = 4096"."""
    return ", ".join(f"{symbol} = {size}" for symbol, size in trial.items())


def _captured(environment: Any) -> Mapping[sympy.Symbol, Any]:
    """The sizes that the symbols stood for; torch 2.11 has another name for it."""
    known = getattr(environment, "backed_var_to_val", None)
    found: Mapping[sympy.Symbol, Any] = environment.var_to_val if known is None else known
    return found


def _candidates(captured: Trial, environment: Any) -> Iterator[Trial]:
    for remainder in REMAINDERS:
        yield {s: n + (remainder - n) % STEP for s, n in captured.items()}
    bounds = {s: environment.var_to_range[s] for s in captured}
    yield {s: int(bounds[s].lower) for s in captured}
    yield {
        s: int(bounds[s].upper) if bounds[s].upper < 2**31 else max(n, LARGE)
        for s, n in captured.items()
    }


def _allowed(trial: Trial, environment: Any) -> bool:
    """Whether the sizes are within their ranges and keep every guard that the graph has so far."""
    sizes = {symbol: sympy.Integer(size) for symbol, size in trial.items()}
    ranges = (environment.var_to_range[symbol] for symbol in trial)
    inside = (
        size >= 1 and r.lower <= size <= r.upper
        for r, size in zip(ranges, sizes.values(), strict=True)
    )
    if not all(inside):
        return False
    return all(guard.expr.xreplace(sizes) != sympy.false for guard in environment.guards)
