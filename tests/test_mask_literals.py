"""Numbers and truth values that a program writes into its mask are what torch makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sympy
import torch
import torch._dynamo
import torch.nn.functional as F

import tile_backend
from tile_backend.inductor import without_codegen
from tile_backend.lowering.mask import elements

Tensor = torch.Tensor
SIZE = 5
CAUSAL, OTHER = "causal", "tensor"

SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "or_false": (lambda b: b | False, CAUSAL),
    "false_or": (lambda b: False | b, CAUSAL),
    "or_true": (lambda b: b | True, "none"),
    "and_true": (lambda b: b & True, CAUSAL),
    "and_false": (lambda b: b & False, OTHER),
    "xor_false": (lambda b: b ^ False, CAUSAL),
    "xor_true": (lambda b: ~(b ^ True), CAUSAL),
    "bitwise_or": (lambda b: torch.bitwise_or(b, False), CAUSAL),
    "where_true_false": (lambda b: torch.where(b, True, False), CAUSAL),
    "where_false_true": (lambda b: torch.where(~b, False, True), CAUSAL),
    "where_numbers": (lambda b: torch.where(b, 0.0, float("-inf")), CAUSAL),
    "full_false": (lambda b: torch.full((SIZE, SIZE), False) | b, CAUSAL),
    "full_true": (lambda b: torch.full((SIZE, SIZE), True) & b, CAUSAL),
    "full_true_tril": (lambda b: torch.full((SIZE, SIZE), True).tril(), CAUSAL),
    "full_like": (lambda b: torch.full_like(b, False).logical_or(b), CAUSAL),
    "new_full": (lambda b: b.new_full((SIZE, SIZE), False) | b, CAUSAL),
    "filled_false": (lambda b: b.masked_fill(~b, False), CAUSAL),
    "ones_filled_false": (
        lambda b: torch.ones(SIZE, SIZE, dtype=torch.bool).masked_fill(~b, False),
        CAUSAL,
    ),
    "zeros_filled_true": (
        lambda b: torch.zeros(SIZE, SIZE, dtype=torch.bool).masked_fill(b, True),
        CAUSAL,
    ),
    "tensor_false": (lambda b: b | torch.tensor(False), CAUSAL),
    "logical_or_zero": (lambda b: b.logical_or(torch.zeros((), dtype=torch.bool)), CAUSAL),
    "not_equal_zero": (lambda b: (b.int() + 0) != 0, OTHER),
}
"""What is made of a causal condition, and what the report says of it."""


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_mask_is_what_eager_makes_of_it(name: str) -> None:
    spelling, said = SPELLINGS[name]

    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        at = torch.arange(SIZE)
        mask = spelling(at[:, None] >= at[None])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    q, k, v = torch.randn(3, 1, 2, SIZE, 8, generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    with without_codegen(), torch.no_grad():
        found = torch.compile(program, backend="tilegym")(q, k, v)
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    assert site.bindings["mask"] == said
    torch.testing.assert_close(found, program(q, k, v), equal_nan=True)


@pytest.mark.parametrize("dtype", (torch.bool, torch.uint8, torch.int32, torch.int64), ids=str)
@pytest.mark.parametrize("value", (False, True, 0, 1, 2, 127))
def test_a_literal_is_what_a_tensor_of_the_dtype_holds(value: int, dtype: torch.dtype) -> None:
    held = torch.tensor(value).to(dtype).item()
    found = elements.literal(value, dtype)
    assert found == (sympy.sympify(held) if dtype is torch.bool else sympy.Integer(held))
    assert elements.truth(found) == sympy.sympify(bool(held))
    assert elements.truth(value) == sympy.sympify(bool(value))
