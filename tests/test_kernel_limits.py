"""Limits of the kernels: each refusal has a kind, and words that name the argument at fault."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernel_plans import meta, plan
from tile_backend.lowering.kernels.launch_plan import KernelLimit, choose, launch
from tile_backend.lowering.reason import ReasonKind


@pytest.mark.parametrize(
    ("op", "arguments", "outputs", "kind", "words"),
    [
        (
            "rms_norm",
            {"x": meta(4, 64), "weight": meta(32), "eps": 1e-6},
            (meta(4, 64),),
            ReasonKind.SHAPE_LIMIT,
            r"`weight` is \[32\]; the kernel takes one value per feature, \[64\]",
        ),
        (
            "rms_norm",
            {"x": meta(4, 65536), "weight": None, "eps": 1e-6},
            (meta(4, 65536),),
            ReasonKind.SHAPE_LIMIT,
            "rows of 65536 features; the norm kernels take 32768",
        ),
        (
            "rms_norm",
            {"x": meta(4, 64), "weight": None, "eps": 1e-6, "rounding": "twice"},
            (meta(4, 64),),
            ReasonKind.SEMANTICS_UNSUPPORTED,
            "`rounding='twice'` has no kernel; known are 'once', 'before_weight'",
        ),
        (
            "rms_norm",
            {"x": meta(), "weight": None, "eps": 1e-6},
            (meta(),),
            ReasonKind.SHAPE_LIMIT,
            "`x` is a scalar",
        ),
        (
            "rms_norm",
            {"x": meta(6, 6, 6, 6, 64)[::2, ::2, ::2, ::2], "weight": None, "eps": 1e-6},
            (meta(3, 3, 3, 3, 64),),
            ReasonKind.STRIDE_LIMIT,
            "leave 4 leading dimensions; the kernels walk 3",
        ),
        (
            "add_rms_norm",
            {"x": meta(4, 64), "residual": meta(1, 64), "weight": None, "eps": 1e-6},
            (meta(4, 64), meta(4, 64)),
            ReasonKind.SHAPE_LIMIT,
            r"`residual` is \[1, 64\] but `x` is \[4, 64\]",
        ),
        (
            "silu_mul",
            {"gate": meta(4, 64), "up": meta(4, 64, dtype=torch.float32)},
            (meta(4, 64),),
            ReasonKind.DTYPE_LIMIT,
            "`up` is torch.float32 but `gate` is torch.bfloat16",
        ),
        (
            "rotary",
            {"x": meta(2, 4, 8, 64), "cos": meta(8, 48), "sin": meta(8, 48)},
            (meta(2, 4, 8, 64),),
            ReasonKind.SHAPE_LIMIT,
            "tables of width 48 for 64 rotated features",
        ),
        (
            "rotary",
            {"x": meta(2, 4, 8, 64), "cos": meta(7, 64), "sin": meta(7, 64)},
            (meta(2, 4, 8, 64),),
            ReasonKind.SHAPE_LIMIT,
            r"tables \[1, 1, 7, 64\] do not broadcast against \[2, 4, 8, 64\]",
        ),
        (
            "rotary_qk",
            {"q": meta(2, 4, 8, 64), "k": meta(2, 2, 9, 64), "cos": meta(64), "sin": meta(64)},
            (meta(2, 4, 8, 64), meta(2, 2, 9, 64)),
            ReasonKind.SHAPE_LIMIT,
            "differ in more than their heads",
        ),
    ],
)
def test_limits_say_what_is_wrong(
    op: str,
    arguments: dict[str, Any],
    outputs: tuple[torch.Tensor, ...],
    kind: ReasonKind,
    words: str,
) -> None:
    with pytest.raises(KernelLimit, match=words) as error:
        plan(op, arguments, *outputs)
    assert error.value.reason.kind is kind


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"k": meta(1, 3, 32, 64)}, ReasonKind.SHAPE_LIMIT, "4 query heads are no multiple of 3"),
        ({"k": meta(1, 4, 32, 32)}, ReasonKind.SHAPE_LIMIT, "do not fit each other"),
        ({"k": meta(1, 4, 0, 64)}, ReasonKind.SHAPE_LIMIT, "there are no keys"),
        ({"q": meta(4, 32, 64)}, ReasonKind.SHAPE_LIMIT, "`q` has 3 dimensions"),
        ({"mask": meta(5, 32)}, ReasonKind.SHAPE_LIMIT, "does not broadcast to"),
        (
            {"mask": meta(32, 32), "is_causal": True, "fill": -1e4},
            ReasonKind.SEMANTICS_UNSUPPORTED,
            "a mask that is added, and hidden scores that are -10000.0",
        ),
        ({"padding": meta(1, 32)}, ReasonKind.DTYPE_LIMIT, "`padding` is torch.bfloat16, not bool"),
        ({"segments": meta(1, 32)}, ReasonKind.DTYPE_LIMIT, "`segments` is .*, no integer"),
        ({"offset": meta(1)}, ReasonKind.DTYPE_LIMIT, "`offset` is torch.bfloat16, no integer"),
        (
            {"offset": meta(2, dtype=torch.int64), "is_causal": True},
            ReasonKind.SHAPE_LIMIT,
            "`offset` has 2 elements",
        ),
        (
            {"padding": meta(1, 31, dtype=torch.bool)},
            ReasonKind.SHAPE_LIMIT,
            r"`padding` is \[1, 31\]; attention takes \[batch, keys\]",
        ),
        ({"sinks": meta(5)}, ReasonKind.SHAPE_LIMIT, "takes one for each head"),
        ({"chunk": 0}, ReasonKind.SHAPE_LIMIT, "a chunk of 0 positions"),
        ({"softcap": 0.0}, ReasonKind.SHAPE_LIMIT, "a soft cap of 0"),
        ({"start": 2**31}, ReasonKind.SHAPE_LIMIT, "leave the range of int32"),
    ],
)
def test_limits_of_attention(given: dict[str, Any], kind: ReasonKind, words: str) -> None:
    heads = {name: meta(1, 4, 32, 64) for name in ("q", "k", "v")}
    arguments = {**heads, "mask": None, "scale": 1.0, **given}
    if "k" in given:
        arguments["v"] = meta(*given["k"].shape[:3], 64)
    with pytest.raises(KernelLimit, match=words) as error:
        plan("attention", arguments, meta(1, 4, 32, 64))
    assert error.value.reason.kind is kind


def test_a_head_wider_than_the_tiles_is_refused() -> None:
    q = meta(1, 4, 32, 512)
    with pytest.raises(KernelLimit, match="a torch.bfloat16 head is 1 to 256 wide"):
        plan("attention", {"q": q, "k": q, "v": q, "mask": None, "scale": 1.0}, q)


def test_a_fill_that_counts_has_no_log_sum_exp() -> None:
    """Its weight would be that of numbers that a backward does not see."""
    q = meta(1, 4, 32, 64)
    given = {"q": q, "k": q, "v": q, "mask": meta(32, 32, dtype=torch.bool), "scale": 1.0}
    outputs = q, meta(1, 4, 32, dtype=torch.float32)
    with pytest.raises(KernelLimit, match="whose hidden ones are -3.0 and count"):
        plan("attention_with_lse", {**given, "fill": -3.0}, *outputs)


def test_half_a_pair_is_refused() -> None:
    x = meta(2, 4, 8, 64)
    given = {"x": x, "cos": meta(8, 33), "sin": meta(8, 33), "rotary_dim": 33}
    with pytest.raises(KernelLimit, match="33 rotated features of 64; they come in pairs"):
        plan("rotary", given, x)


def test_the_grid_is_checked() -> None:
    with pytest.raises(KernelLimit, match="70000 blocks on grid axis y; a launch takes 1 to 65535"):
        launch(None, (1, 70000, 1), ())


def test_choose_names_the_known_values() -> None:
    assert choose("layout", "half", {"half": 0}) == 0
    with pytest.raises(KernelLimit, match="`layout='other'` has no kernel; known are 'half'"):
        choose("layout", "other", {"half": 0})
