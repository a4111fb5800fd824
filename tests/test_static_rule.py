"""The static rule at sizes of real models, on the figures of a data sheet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.simulated_gpu import GPU
from tile_backend.lowering import device, recorder, static_rule
from tile_backend.lowering.legality import Call
from tile_backend.lowering.signature import declared
from tile_backend.lowering.tuning_entry import INDUCTOR
from tile_backend.lowering.work import Step, Work, used
from tile_backend.patterns import _attention_work, all_fusions

FUSIONS = {fusion.name: fusion for fusion in all_fusions()}


def made(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def call(name: str, masked: Mapping[str, Any] | None = None, **given: Any) -> Call:
    op = FUSIONS[name].op()
    arguments = declared(op).filled(given)
    outputs = op.outputs(**arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    before = {**arguments, **masked} if masked else {}
    return Call(op, arguments, outputs, outputs, masked=before)


def estimate(name: str, masked: Mapping[str, Any] | None = None, **given: Any) -> str:
    found = static_rule.of_call(FUSIONS[name], call(name, masked, **given), GPU)
    assert found.text.startswith("estimated: ")
    return "inductor" if found.chosen == INDUCTOR else "kernel"


X, W = made(8192, 4096), made(4096)
Q, K = made(1, 32, 4096, 128), made(1, 8, 4096, 128)


@pytest.mark.parametrize(
    ("name", "given"),
    (
        ("rms_norm", {"x": X, "weight": W, "eps": 1e-6}),
        ("layer_norm", {"x": X, "weight": W, "bias": W, "eps": 1e-6}),
        ("add_rms_norm", {"x": X, "residual": X, "weight": W, "eps": 1e-6}),
        ("silu_mul", {"gate": X, "up": X}),
        ("softmax", {"x": X}),
        ("attention", {"q": Q, "k": K, "v": K, "scale": 0.1, "is_causal": True}),
    ),
)
def test_a_tie_is_inductors(name: str, given: dict[str, Any]) -> None:
    assert estimate(name, **given) == "inductor"


def test_attention_whose_mask_was_understood() -> None:
    given = {"q": Q, "k": K, "v": K, "scale": 0.1}
    mask = made(1, 1, 4096, 4096, dtype=torch.bool)
    assert estimate("attention", {"mask": mask, "is_causal": False}, **given, is_causal=True) == (
        "kernel"
    )


def test_attention_that_is_written_out() -> None:
    given = {"q": Q, "k": K, "v": K, "scale": 0.1, "is_causal": True, "softcap": 50.0}
    assert estimate("attention", **given) == "kernel"


def test_the_logits_of_a_large_vocabulary() -> None:
    labels = made(8192, dtype=torch.int64)
    given = {"hidden": X, "bias": None, "labels": labels}
    assert estimate("linear_cross_entropy", weight=made(128256, 4096), **given) == "kernel"
    assert estimate("linear_cross_entropy", weight=made(128, 4096), **given) == "inductor"


def test_the_sentence_has_the_figures() -> None:
    given = {"q": Q, "k": K, "v": K, "scale": 0.1, "is_causal": True, "softcap": 50.0}
    text = static_rule.of_call(FUSIONS["attention"], call("attention", **given), GPU).text
    assert text.startswith("estimated: 1 launch and 80 MiB against ")
    assert ", 137 GFLOP against 275 GFLOP" in text
    assumed = static_rule.of_call(
        FUSIONS["attention"], call("attention", **given), device.ASSUMED
    ).text
    assert assumed == f"{text}, on an assumed sm_90 GPU"


def test_few_blocks_leave_a_gpu_idle() -> None:
    assert used(0, 1, 132) == 1.0
    assert used(33, 1, 132) == 0.25
    assert used(132, 1, 132) == 1.0
    assert used(133, 1, 132) == pytest.approx(133 / 264)
    assert used(133, 2, 132) == 1.0
    busy = Step({0: 2**30}, {}, blocks=33).seconds(GPU)
    assert busy > 3 * Step({0: 2**30}, {}).seconds(GPU)


def work(function: Any, *tensors: torch.Tensor) -> Work:
    return recorder.work(functools.partial(function, *tensors), GPU, lambda *_: (0, 1))


def test_what_is_read_and_written_once_counts_once() -> None:
    size = X.numel() * 2
    found = work(lambda x: (x.float() * 2 + x).relu().to(x.dtype), X)
    assert (found.launches, found.bytes, found.largest) == (1, 2 * size, 0)
    found = work(lambda x: x.t()[:10].transpose(0, 1), X)
    assert (found.launches, found.bytes) == (0, 0)


def test_a_product_lies_between_two_loops() -> None:
    size = X.numel() * 2
    weight = made(4096, 4096)
    found = work(lambda x, w: (x * 2) @ w + 1, X, weight)
    assert (found.launches, found.largest) == (3, size)
    assert found.flops == 2 * 8192 * 4096 * 4096
    assert found.bytes == 6 * size + weight.numel() * 2


def test_sdpa_is_one_launch_and_causal_half_the_work() -> None:
    whole, half = (
        work(lambda q, c=c: F.scaled_dot_product_attention(q, q, q, is_causal=c), Q)
        for c in (False, True)
    )
    assert (whole.launches, whole.largest, whole.bytes) == (1, 0, 2 * Q.numel() * 2)
    assert whole.flops == 2 * half.flops == 4 * 32 * 4096 * 4096 * 128


@pytest.mark.parametrize(
    ("given", "pairs"),
    (
        ({}, 12),
        ({"is_causal": True}, 1 + 2 + 3),
        ({"is_causal": True, "start": 1}, 2 + 3 + 4),
        ({"is_causal": True, "window": 2}, 1 + 2 + 2),
        ({"is_causal": True, "start": 9}, 4 + 4 + 4),
    ),
)
def test_pairs_of_queries_and_keys(given: dict[str, Any], pairs: int) -> None:
    assert _attention_work.pairs(given, 3, 4) == pairs


def test_of_ways_that_are_as_good_the_one_with_fewer_ops() -> None:
    seconds = {INDUCTOR: 10.0, "rotary_qk+attention": 5.0, "attention": 5.1, "rotary_qk": 9.5}
    works = {way: Work(1, 1, 0.0, 0, found) for way, found in seconds.items()}
    assert static_rule.judged(works, GPU).chosen == "attention"
    works["attention"] = Work(1, 1, 0.0, 0, 6.0)
    assert static_rule.judged(works, GPU).chosen == "rotary_qk+attention"


def test_a_gain_of_a_fifth_is_clear() -> None:
    def chosen(ours: float, largest: int = 0, of_inductor: int = 0) -> str:
        works = {
            INDUCTOR: Work(1, 1, 0.0, of_inductor, 10.0),
            "softmax": Work(1, 1, 0.0, largest, ours),
        }
        return static_rule.judged(works, GPU).chosen

    assert [chosen(ours) for ours in (7.9, 8.1, 10.0)] == ["softmax", INDUCTOR, INDUCTOR]
    assert chosen(10.4, 0, 2**28) == "softmax", "a large value less, at about the same time"
    assert chosen(10.6, 0, 2**28) == chosen(10.0, 0, 2**28 - 1) == INDUCTOR


def test_a_model_that_fails_leaves_the_site_to_inductor() -> None:
    found = static_rule.unknown(ValueError("what\nelse"))
    assert found.chosen == INDUCTOR
    assert found.text == "estimated: nothing is known of it (ValueError: what)"


def test_a_gpu_is_assumed_only_where_there_is_none() -> None:
    assert device.of(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert device.of(torch.device("cuda")) == device.ASSUMED
    with device.simulated(dataclasses.replace(GPU, name="B300", capability=(10, 3))) as gpu:
        assert device.of(torch.device("cpu")) == device.current() == gpu
        assert gpu.arch == "sm_103"
