"""Masks that torch.vmap builds from a function of four indices, as Transformers does at times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from tests.mask_programs import check

KEEP = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
IDS = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
Function = Callable[..., torch.Tensor]


def mapped(function: Function, x: torch.Tensor, offset: int | torch.Tensor = 0) -> torch.Tensor:
    """Over key, query, head and batch entry, the innermost first."""
    for place in (3, 2, 1, 0):
        dims = tuple(0 if i == place else None for i in range(4))
        function = torch.vmap(function, in_dims=dims, out_dims=0)
    batch, length = x.shape
    with TransformGetItemToIndex():
        positions = torch.arange(length)
        return function(torch.arange(batch), torch.arange(1), positions + offset, positions)


def causal(x: torch.Tensor) -> torch.Tensor:
    return mapped(lambda b, h, q, k: k <= q, x)


def combined(x: torch.Tensor) -> torch.Tensor:
    """As and_masks combines functions."""

    def both(b: Any, h: Any, q: Any, k: Any) -> torch.Tensor:
        result = q.new_ones((), dtype=torch.bool)
        for part in (k > q - 3, k <= q):
            result = result & part.to(result.device)
        return result

    return mapped(both, x)


def chunked(x: torch.Tensor) -> torch.Tensor:
    return mapped(lambda b, h, q, k: (k <= q) & (q // 2 == k // 2), x)


def padded(x: torch.Tensor) -> torch.Tensor:
    keep = x.bool()
    return mapped(lambda b, h, q, k: (k <= q) & keep[b, k], x)


def packed(x: torch.Tensor) -> torch.Tensor:
    return mapped(lambda b, h, q, k: (k <= q) & (x[b, q] == x[b, k]), x)


def later(x: torch.Tensor) -> torch.Tensor:
    return mapped(lambda b, h, q, k: k <= q, x, offset=3)


def after_another(x: torch.Tensor) -> torch.Tensor:
    """Two vmaps one after the other have the same level, and other indices."""
    row = torch.vmap(lambda k: k + torch.arange(5))(torch.arange(5))
    rows = row[:, 0]
    return mapped(lambda b, h, q, k: k <= rows[k] - k + q, x)


def turned(x: torch.Tensor) -> torch.Tensor:
    """The second vmap runs over what was the other dimension of the first."""
    table = torch.vmap(lambda q: q - 2 * torch.arange(5))(torch.arange(5))
    return torch.vmap(lambda column: column >= -torch.arange(5), in_dims=1)(table)


def single(x: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda q: q >= torch.arange(5))(torch.arange(5))


def last_dimension(x: torch.Tensor) -> torch.Tensor:
    keys, queries = torch.arange(5), torch.arange(5)
    return torch.vmap(lambda k: k <= queries, out_dims=-1)(keys)


def not_of_the_index(x: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda q: torch.arange(5) < 5)(torch.arange(5))


def unknown_inside(x: torch.Tensor) -> torch.Tensor:
    """What no word explains inside is read once it has left."""
    return mapped(lambda b, h, q, k: torch.bitwise_left_shift(k, q) <= 4, x)


KNOWN: dict[Any, tuple[torch.Tensor, str]] = {
    causal: (IDS, "causal"),
    combined: (IDS, "causal+window(3)"),
    chunked: (IDS, "causal+chunk(2)"),
    padded: (KEEP, "causal+padding"),
    packed: (IDS, "causal+segments"),
    later: (IDS, "causal(3)"),
    after_another: (IDS, "causal"),
    turned: (IDS, "tensor"),
    single: (IDS, "causal"),
    last_dimension: (IDS, "causal"),
    not_of_the_index: (IDS, "none"),
    unknown_inside: (IDS, "tensor"),
}


@pytest.mark.parametrize("program", KNOWN, ids=lambda program: program.__name__)
def test_a_mapped_function_is_read(program: Any) -> None:
    x, words = KNOWN[program]
    assert check(program, x=x) == words


def one_more(x: torch.Tensor) -> torch.Tensor:
    return mapped(lambda b, h, q, k: (k <= q) | ((q == 1) & (k == 3)), x)


def one_less(x: torch.Tensor) -> torch.Tensor:
    return mapped(lambda b, h, q, k: (k <= q) & ~((q == 3) & (k == 1) & (b == 1)), x)


@pytest.mark.parametrize("program", (one_more, one_less), ids=lambda program: program.__name__)
def test_one_element_more_or_less_is_not_causal(program: Any) -> None:
    assert "tensor" in check(program, x=IDS)


def test_a_length_that_is_written_to_later_is_read_inside() -> None:
    def cached(length: torch.Tensor) -> Any:
        mask = mapped(lambda b, h, q, k: k <= q, torch.zeros(1, 5), offset=length)
        return mask, length.add_(5)

    assert check(cached, length=torch.tensor(2)) == "causal(l_length_)"


def test_a_write_inside_a_vmap_is_seen() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        table = torch.arange(5)[:, None] >= torch.arange(5)

        def row(line: torch.Tensor) -> torch.Tensor:
            line.logical_not_()
            return line & True

        return torch.vmap(row)(table)

    assert check(written, x=IDS) == "tensor"
