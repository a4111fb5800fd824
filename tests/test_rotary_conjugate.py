"""Rotations backwards: by the conjugate of a complex table, which torch computes lazily."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tile_backend
from tests.models.check import assert_like_eager

Tensor = torch.Tensor
Turn = Callable[[Tensor, Tensor], Tensor]


def turned(x: Tensor, table: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * table).flatten(-2).type_as(x)


def method(x: Tensor, table: Tensor) -> Tensor:
    return turned(x, table.conj())


def function(x: Tensor, table: Tensor) -> Tensor:
    return turned(x, torch.conj(table))


def of_a_view(x: Tensor, table: Tensor) -> Tensor:
    return turned(x, table[None, :].conj())


def view_of_it(x: Tensor, table: Tensor) -> Tensor:
    return turned(x, table.conj().reshape(1, 5, 4))


def part_of_it(x: Tensor, table: Tensor) -> Tensor:
    return turned(x, torch.cat((table, table)).conj()[:5])


def resolved(x: Tensor, table: Tensor) -> Tensor:
    return turned(x, table.conj().resolve_conj())


def at_once(x: Tensor, table: Tensor) -> Tensor:
    return turned(x, torch.conj_physical(table))


def there_and_back(x: Tensor, table: Tensor) -> Tensor:
    return turned(turned(x, table), table.conj())


def by_parts(x: Tensor, table: Tensor) -> Tensor:
    """The imaginary part of a conjugate is negated lazily."""
    back = table.conj()
    cos, sin = torch.cat((back.real,) * 2, -1), torch.cat((back.imag,) * 2, -1)
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


FORMS: dict[Turn, int] = {
    method: 1,
    function: 1,
    of_a_view: 1,
    view_of_it: 1,
    part_of_it: 1,
    resolved: 1,
    at_once: 1,
    there_and_back: 2,
    by_parts: 1,
}
"""And how many sites they are."""
BACK = (method, function, of_a_view)
"""Where the table is read as it is, and the op turns the other way."""


def inputs(dtype: torch.dtype, trains: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 8, generator=generator).to(dtype).requires_grad_(trains)
    angles = torch.randn(5, 4, generator=generator)
    return x, torch.polar(torch.ones(5, 4), angles)


def rotations(report: tile_backend.Report) -> list[tile_backend.Site]:
    return [site for site in report.fused if site.fusion == "rotary"]


@pytest.mark.parametrize(
    ("dtype", "trains"), ((torch.float32, True), (torch.bfloat16, False)), ids=str
)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_it_is_found_and_right(form: Turn, dtype: torch.dtype, trains: bool) -> None:
    report = assert_like_eager(form, *inputs(dtype, trains))
    sites = rotations(report)
    assert len(sites) == FORMS[form], report
    assert not report.having("declined")
    if form in BACK:
        assert sites[0].bindings["conjugate"] is True
        assert sites[0].spelling == "complex_conjugate"


def test_a_table_that_comes_conjugated() -> None:
    x, table = inputs(torch.float32)
    assert table.conj().is_conj()
    report = assert_like_eager(turned, x, table.conj())
    assert len(rotations(report)) == 1


def test_of_real_numbers_it_is_nothing() -> None:
    def norm(x: Tensor, weight: Tensor) -> Any:
        x = x.conj()
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6))

    report = assert_like_eager(norm, torch.randn(3, 8), torch.randn(8))
    assert report.counts == {"rms_norm": 1}
