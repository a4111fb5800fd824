"""`meaning_of(node)`: what the mask that a node computes lets a query see.

A boolean mask is true where a query sees a key; a floating-point one is added to the scores, and
hides with minus infinity or with the lowest number of its dtype. What these do to a query that sees
no key differs; a meaning says only which keys are seen.
"""

from __future__ import annotations

import dataclasses
import math

import sympy
import torch
from sympy.logic.boolalg import Boolean
from torch import fx

from tile_backend.lowering.mask import elements
from tile_backend.lowering.mask.conjunction import factors
from tile_backend.lowering.mask.elements import Cases, NotExplained
from tile_backend.lowering.mask.factors import (
    BATCH,
    HEAD,
    KEY,
    NOTHING,
    QUERY,
    Amount,
    Causal,
    Factor,
    Unexplained,
)
from tile_backend.lowering.mask.reader import GaveUpError, Reader
from tile_backend.lowering.mask.runs import by_index
from tile_backend.lowering.node import Size, shape, value


@dataclasses.dataclass(frozen=True)
class Meaning:
    """A query sees a key where all factors hold; () where it sees every key.

    problem: why nothing could be told; then there are no factors.
    hides_with: what it adds to the score of a key that it hides, NaN for several numbers; None for
                a boolean mask.
    """

    factors: tuple[Factor, ...] = ()
    problem: str = ""
    hides_with: float | None = None

    @property
    def explained(self) -> bool:
        """Whether every factor has a name."""
        return not self.problem and not any(isinstance(f, Unexplained) for f in self.factors)

    @property
    def is_causal(self) -> bool:
        """Exactly k <= q: what `is_causal=True` of scaled_dot_product_attention says."""
        found = self.factors[0] if len(self.factors) == 1 else None
        return isinstance(found, Causal) and found.offset == NOTHING

    @property
    def is_all(self) -> bool:
        """Every query sees every key."""
        return not self.problem and not self.factors

    @property
    def offset(self) -> Amount | None:
        """Of the queries' positions: that of all factors that have one; None where they differ."""
        found = {factor.offset for factor in self.factors if hasattr(factor, "offset")}
        return next(iter(found), NOTHING) if len(found) <= 1 else None

    def __str__(self) -> str:
        if self.problem:
            return f"unknown: {self.problem}"
        return "+".join(map(str, self.factors)) or "none"


def meaning_of(
    node: fx.Node, reader: Reader, rows: Size, columns: Size, hides: bool = False
) -> Meaning:
    """rows, columns: numbers of queries and of keys. hides: true in it means that a key is hidden.

    Gives up with a reason, within a bounded number of steps.
    """
    fake = value(node)
    if not isinstance(fake, torch.Tensor) or not 1 <= fake.dim() <= len(INDICES):
        return Meaning(problem="it is no mask")
    if not (fake.dtype is torch.bool or fake.dtype.is_floating_point):
        return Meaning(problem=f"{fake.dtype} says neither what to hide nor what to add")
    reader.begin()
    indices = INDICES[len(INDICES) - fake.dim() :]
    sizes = shape(fake)
    given = tuple(sympy.Integer(0) if n == 1 else i for i, n in zip(indices, sizes, strict=True))
    try:
        element = reader.elements(node).at(given)
        condition = visible(element, fake.dtype)
        shown = by_index(~condition if hides else condition, reader)
        found = factors(shown, rows, columns, reader.reads)
        return Meaning(found, hides_with=hiding_number(element))
    except GaveUpError as error:
        return Meaning(problem=str(error))
    except NotExplained as error:
        return Meaning(problem=str(error) or "its numbers are not known")
    except (RecursionError, TypeError, ValueError, NotImplementedError) as error:  # sympy's
        return Meaning(problem=f"its formula is too much for sympy ({type(error).__name__})")


def hiding_number(element: object) -> float | None:
    """What is added to a hidden score; NaN where that is not one number."""
    if not isinstance(element, Cases):
        return None
    hiding = {number for number, _ in element.choices} - {0.0}
    return hiding.pop() if len(hiding) == 1 else math.nan if hiding else 0.0


LOW_ENOUGH = (torch.float64, torch.float32, torch.bfloat16)
"""Dtypes whose lowest number leaves a weight of exactly 0 beside any score that is not infinite."""
INDICES = (BATCH, HEAD, QUERY, KEY)


def visible(element: object, dtype: torch.dtype) -> Boolean:
    """The condition under which a key is seen. Raises NotExplained."""
    if not isinstance(element, Cases):
        return elements.truth(element)
    hiding = {-math.inf}
    if dtype in LOW_ENOUGH:
        hiding.add(torch.finfo(dtype).min)
    if any(number != 0.0 and number not in hiding for number, _ in element.choices):
        raise NotExplained("it adds numbers other than 0 and minus infinity")
    return sympy.Or(*(condition for number, condition in element.choices if number == 0.0))
