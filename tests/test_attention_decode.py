"""attention_split and attention_join, interpreted: together they are within attention's budget."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.attention_cases import FORMS, heads, padded, sinks, some_of
from tests.kernel_cases import DTYPES
from tests.kernel_check import outputs_of, verdict_on
from tests.kernel_plans import meta, plan
from tile_backend.lowering import interpreted
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.kernels import attention_split_samples
from tile_backend.lowering.kernels.launch_plan import KernelLimit

MOST = 64
"""Queries that attention_split takes."""
TILE = 64
"""Keys per step, of 16-bit heads."""
Arguments = dict[str, Any]


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """A kernel that cannot run is a failure here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


def parts_of(values: Arguments, splits: int) -> list[torch.Tensor]:
    """Parts and their log-sum-exp."""
    split = record("attention_split")
    given = {n: a for n, a in values.items() if n not in ("sinks", "fill")}
    arguments = split.signature.bind((), {**given, "splits": splits})
    made = outputs_of(split, arguments)
    interpreted.run(split, arguments, made)
    return made


def decoded(values: Arguments, splits: int) -> torch.Tensor:
    """The result of both kernels for arguments of `attention`."""
    join, (parts, lse) = record("attention_join"), parts_of(values, splits)
    given = {"parts": parts, "lse": lse, "sinks": values["sinks"], "dtype": values["q"].dtype}
    (out,) = made = outputs_of(join, given)
    interpreted.run(join, given, made)
    return out


def check(values: Arguments, splits: int) -> None:
    (verdict,) = verdict_on(record("attention"), values, [decoded(values, splits)])
    assert verdict, str(verdict)


def is_taken(values: Arguments) -> bool:
    few = values["q"].shape[2] <= MOST
    return few and values["segments"] is None and values["fill"] is None


TAKEN = [name for name, form in FORMS.items() if is_taken(form(torch.float32))]


def test_forms_of_every_rule_are_taken() -> None:
    cases = [FORMS[name](torch.float32) for name in TAKEN]
    for rule in ("mask", "padding", "offset", "sinks", "window", "chunk", "softcap"):
        assert any(values[rule] is not None for values in cases), rule


@pytest.mark.sampled(10)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", TAKEN)
def test_every_form_is_within_budget(form: str, dtype: torch.dtype) -> None:
    check(FORMS[form](dtype), splits=2)


# --- the valid prefix of a cache ------------------------------------------------------------------


def cache(dtype: torch.dtype, queries: int, seen: int, length: int = 200) -> Arguments:
    """The last query sees `seen` keys of a cache that lies as [B, L, K, D]."""
    offset = torch.tensor([seen - queries])
    return heads(dtype, (queries, length), (6, 2), (32, 16), is_causal=True, offset=offset)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("queries", (1, 4))
@pytest.mark.parametrize("seen", (0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 199, 200))
def test_what_lies_behind_the_prefix_is_not_read(
    seen: int, queries: int, dtype: torch.dtype
) -> None:
    values = cache(dtype, queries, seen)
    poisoned = {name: values[name].clone() for name in ("k", "v")}
    for tensor in poisoned.values():
        tensor[:, :, seen:] = torch.nan
    result = decoded({**values, **poisoned}, splits=3)
    (verdict,) = verdict_on(record("attention"), values, [result])
    assert verdict, str(verdict)


@pytest.mark.parametrize(("splits", "seen"), ((1, 200), (3, 200), (3, 129), (4, 200), (9, 130)))
def test_the_keys_that_are_seen_are_shared_out(splits: int, seen: int) -> None:
    """Keys of 0 all weigh 1, so that the sum of a part is how many it has."""
    values = cache(torch.bfloat16, 1, seen)
    values["k"].zero_()
    parts, lse = parts_of(values, splits)
    counts = lse.exp().round().int()
    assert (counts.sum(0) == seen).all()
    tiles = [-(-n // TILE) for n in counts[:, 0, 0, 0].tolist()]
    assert sum(tiles) == -(-seen // TILE)
    assert max(tiles) - min(tiles) <= 1
    assert (parts[counts == 0] == 0).all()
    assert (lse[counts == 0] == -torch.inf).all()


def test_a_window_is_shared_out_as_well() -> None:
    values = {**cache(torch.bfloat16, 1, 200), "window": 70}
    values["k"].zero_()
    counts = parts_of(values, 2)[1].exp().round().int()[:, 0, 0, 0]
    assert counts.tolist() == [192 - 130, 8]


@pytest.mark.parametrize("splits", (1, 2, 5, 40))
def test_any_number_of_parts(splits: int) -> None:
    check(cache(torch.float16, 3, 170), splits)


# --- rows of a tile -------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("queries", (1, 2, 3, 7, 16))
@pytest.mark.parametrize("group", range(1, 9))
def test_groups_and_queries_are_rows_of_one_tile(group: int, queries: int) -> None:
    values = heads(
        torch.bfloat16,
        (queries, 90),
        (2 * group, 2),
        (32, 32),
        is_causal=True,
        offset=torch.tensor(70),
        sinks=sinks(torch.float32, 2 * group),
        mask=some_of(2, 2 * group, queries + 1, 90)[:, :, 1:],
    )
    check(values, splits=2)


@pytest.mark.parametrize("shape", ((1, 1, 1, 90), (2, 1, 3, 90), (1, 10, 1, 90), (3, 1), (90,)))
def test_masks_that_serve_several(shape: tuple[int, ...]) -> None:
    mask = some_of(*(1,) * (2 - len(shape)), *shape) if len(shape) > 1 else padded((3, 50), keys=90)
    check(heads(torch.bfloat16, (3, 90), (10, 2), mask=mask), splits=2)


@pytest.mark.parametrize("group", (20, 71))
def test_a_group_may_take_several_tiles(group: int) -> None:
    check(heads(torch.float16, (5, 90), (group, 1), (16, 16)), splits=2)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", ((64, 64), (128, 128), (80, 96), (192, 128), (256, 256)))
def test_head_widths(widths: tuple[int, int], dtype: torch.dtype) -> None:
    if max(widths) > 128 and dtype is torch.float32:
        return
    check(heads(dtype, (1, 150), (8, 2), widths, padding=padded((9, 130), (60, 150))), splits=2)


def test_dense_caches() -> None:
    """[B, K, L, D] without gaps, and every other key of one."""
    values = cache(torch.bfloat16, 2, 150)
    check({**values, "k": values["k"].contiguous(), "v": values["v"].contiguous()}, splits=3)
    check({**values, **{n: values[n][:, :, ::2] for n in ("k", "v")}}, splits=3)


# --- what has no kernel ---------------------------------------------------------------------------


def refusal(**changed: Any) -> str:
    _, arguments, outputs = attention_split_samples.sample("any", (8, 1, 64), (2, 512, 64))
    with pytest.raises(KernelLimit) as error:
        plan("attention_split", {**arguments, **changed}, *outputs)
    return str(error.value)


def test_limits_say_what_they_are_about() -> None:
    assert "`segments`" in refusal(segments=meta(2, 512, dtype=torch.int64))
    assert "65 queries per head" in refusal(q=meta(2, 8, 65, 64))
    assert "a soft cap of 0" in refusal(softcap=0.0)
    assert "`mask` is torch.int64" in refusal(mask=meta(1, 512, dtype=torch.int64))
    wide = meta(8, 2, 4, 1, 2048, dtype=torch.float32)
    arguments = {"parts": wide, "lse": wide[..., 0], "sinks": None, "dtype": torch.float32}
    with pytest.raises(KernelLimit, match="a head is 1 to 1024 wide"):
        plan("attention_join", arguments, wide[0])


# --- the sum of the parts -------------------------------------------------------------------------


@pytest.mark.parametrize("with_sinks", (False, True))
def test_parts_that_saw_nothing_weigh_nothing(with_sinks: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(19, 2, 4, 3, 24, generator=generator)
    lse = 40 * torch.randn(19, 2, 4, 3, generator=generator)
    empty = torch.rand(lse.shape, generator=generator) < 0.5
    empty[:, 0, 0] = True
    empty[:10, 1] = True
    lse[empty], parts[empty] = -torch.inf, 0
    given = sinks(torch.bfloat16) if with_sinks else None
    if given is not None:
        given[2] = -torch.inf
    join = record("attention_join")
    values = {"parts": parts, "lse": lse, "sinks": given, "dtype": torch.bfloat16}
    (out,) = made = outputs_of(join, values)
    interpreted.run(join, values, made)
    (verdict,) = verdict_on(join, values, made)
    assert verdict, str(verdict)
    assert (out[0, 0] == 0).all()
