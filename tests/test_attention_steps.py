"""Attention of few queries goes in as two ops, and only there; what is compiled and told."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import tile_backend
from tests.fake_compiler import Tileiras
from tests.inductor_code import allocations, compiled, first_call, launches
from tests.kernel_check import verdict_on
from tile_backend.lowering import gate, inductor_ir, steps
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.fusion import Fusion, Op
from tile_backend.lowering.legality import Call
from tile_backend.lowering.signature import declared
from tile_backend.patterns import _attention_decode, attention

BF16 = torch.bfloat16


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As Transformers calls it: keys and values are expanded."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def inputs(queries: int = 1, keys: int = 1024, valid: int = 700) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, queries, 64), (2, 2, keys, 64), (2, 2, keys, 64))
    tensors = (torch.randn(shape, generator=generator).to(BF16) for shape in shapes)
    return *tensors, (torch.arange(keys) < valid)[None, None, None]


def ops_in(
    *args: torch.Tensor, kernels: str = "interpret", **settings: Any
) -> tuple[Any, list[str]]:
    """The result, and the ops that went in."""
    torch._dynamo.reset()
    options = {"tilegym.kernels": kernels}
    run = torch.compile(sdpa, backend="tilegym", options=options, **settings)
    return run(*args), put_in()


def put_in() -> list[str]:
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    return [line.partition(" = ")[2].partition("(")[0] for line in site.after]


TWO = ["tilegym.attention_split", "tilegym.attention_join"]
ONE = ["tilegym.attention"]


def check(result: torch.Tensor, *args: torch.Tensor) -> None:
    q, k, v, mask = args
    given = {"q": q, "k": k, "v": v, "mask": mask, "scale": 0.125}
    values = record("attention").signature.bind(
        (), {**dict.fromkeys(("padding", "segments", "offset", "sinks")), **given}
    )
    (verdict,) = verdict_on(record("attention"), values, [result])
    assert verdict, str(verdict)


@pytest.mark.parametrize("queries", (1, 5))
def test_decode_runs_both_kernels(queries: int) -> None:
    args = inputs(queries)
    with torch.no_grad():
        result, ops = ops_in(*args)
    assert ops == TWO
    check(result, *args)


def test_compiled_code_has_two_launches_and_nothing_expanded() -> None:
    with torch.no_grad():
        options = {"tilegym.kernels": "always"}
        torch._dynamo.reset()
        run = torch.compile(sdpa, backend="tilegym", options=options)
        result, (code,) = first_call(run, *inputs())
    split, join = launches(code)
    assert "_tg.attention_split(arg" in split
    assert "_tg.attention_join(buf" in join
    assert allocations(code) == 3, "two halves and the result"
    check(result, *inputs())


@pytest.mark.parametrize(
    "args",
    (
        inputs(keys=300, valid=300),
        inputs(queries=17),
        (*inputs()[:3], torch.zeros(1, 1, 1, 1024, dtype=BF16)),
    ),
    ids=("few keys", "many queries", "a mask that is added"),
)
def test_other_attention_is_one_op(args: tuple[torch.Tensor, ...]) -> None:
    with torch.no_grad():
        result, ops = ops_in(*args)
    assert ops == ONE
    check(result, *args)


def test_attention_that_is_trained_is_one_op() -> None:
    q, k, v, mask = inputs()
    q.requires_grad_()
    result, ops = ops_in(q, k, v, mask)
    assert ops == ONE
    result.sum().backward()
    assert q.grad is not None
    with torch.no_grad():
        _, ops = ops_in(q.detach(), k, v, mask)
    assert ops == TWO


def test_on_a_cpu_the_original_ops_stay() -> None:
    with torch.no_grad():
        _, (code,) = compiled(torch.compile(sdpa, backend="tilegym"), *inputs())
    assert "tilegym" not in code


def test_one_compile_serves_caches_of_any_length() -> None:
    def newest(q: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        return sdpa(q, *cache, (torch.arange(cache.shape[3]) >= 20)[None, None, None])

    torch._dynamo.reset()
    run = torch.compile(newest, backend="tilegym", options={"tilegym.kernels": "interpret"})
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for keys in (1024, 1500, 40):
            q, *pair, _ = inputs(keys=keys)
            cache = torch.stack(pair)
            torch._dynamo.mark_dynamic(cache, 3)
            check(run(q, cache), q, *pair, (torch.arange(keys) >= 20)[None, None, None])
            assert put_in() == TWO


def test_a_number_of_queries_that_is_not_fixed_is_one_op() -> None:
    q, k, v, mask = inputs(queries=4)
    torch._dynamo.mark_dynamic(q, 2)
    with torch.no_grad():
        _, ops = ops_in(q, k, v, mask)
    assert ops == ONE


@pytest.mark.parametrize(("queries", "few"), ((1, True), (16, True), (17, False)))
def test_more_queries_than_a_tile_has_rows_are_no_decoding(queries: int, few: bool) -> None:
    absent = dict.fromkeys(("mask", "fill", "segments"))
    assert _attention_decode.is_decode({"q": torch.empty(1, 2, queries, 8), **absent}) is few


# --- how many parts -------------------------------------------------------------------------------


def parts(batch: int, heads: int, keys: int, **given: Any) -> int:
    absent = dict.fromkeys(("offset", "window", "chunk"))
    arguments = {
        "q": torch.empty(batch, heads, 1, 64, device="meta"),
        "k": torch.empty(batch, heads, keys, 64, device="meta"),
        **absent,
        "is_causal": False,
        "start": 0,
        **given,
    }
    return _attention_decode.number_of_splits(arguments, 132)


@pytest.mark.parametrize(
    ("found", "wanted"),
    (
        (parts(1, 8, 131072), 33),  # 264 blocks
        (parts(4, 8, 131072), 9),
        (parts(1, 8, 4096), 16),  # 256 keys each
        (parts(1, 8, 511), 1),
        (parts(64, 8, 131072), 1),  # the heads fill the GPU
        (parts(1, 8, 131072, is_causal=True), 1),  # one key is seen
        (parts(1, 8, 131072, is_causal=True, start=8191), 32),
        (parts(1, 8, 131072, is_causal=True, offset=torch.empty(1, device="meta")), 33),
        (parts(1, 8, 131072, is_causal=True, start=99999, window=1023), 4),
        (parts(1, 8, 131072, chunk=2047), 8),
    ),
)
def test_number_of_parts(found: int, wanted: int) -> None:
    assert found == wanted


# --- the gate, the compiler -----------------------------------------------------------------------


def test_both_kernels_are_compiled_before_anything_runs(
    tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "device_of", lambda call: torch.device("cuda", 0))
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    monkeypatch.setattr(gate, "multiprocessors_of", lambda index: 8)
    with torch.no_grad(), inductor_ir.force_direct_launch():
        _, ops = ops_in(*inputs(), kernels="always")
    assert ops == TWO
    names = sorted(run[0].rpartition("/")[2] for run in tileiras.compiles())
    assert names == ["attention_join.bytecode", "attention_split.bytecode"]
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    assert "splits=4" in site.after[0], "16 blocks on 8 multiprocessors, for 4 heads of keys"


def test_what_a_kernel_of_the_steps_refuses_is_the_reason() -> None:
    op = attention.FUSION.op()
    with FakeTensorMode():
        q, k = torch.empty(2, 4, 1, 64).double(), torch.empty(2, 2, 1024, 64).double()
        arguments = declared(op).filled({"q": q, "k": k, "v": k, "scale": 0.1})
        call = Call(op, arguments, (op.outputs(**arguments),), ())
    divided = steps.divided(attention.FUSION, call, 132)
    assert [step.op.name for step in divided] == ["attention_split", "attention_join"]
    verdict = gate.decide(attention.FUSION, dataclasses.replace(call, steps=divided), "interpret")
    assert verdict.fallback is not None
    assert "`q` is torch.float64" in verdict.fallback.text


def test_steps_end_with_what_they_return() -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def twice(run: Any, arguments: Any, multiprocessors: int) -> Any:
        first = run("test_twice", x=arguments["x"])
        run("test_twice", x=first)
        return first

    op = Op("test_twice", "(Tensor x) -> Tensor", double, torch.empty_like, steps=twice)
    fusion = Fusion(name="own", summary="", ops=(op,), holes={}, spellings=())
    with FakeTensorMode():
        x = torch.empty(2)
    with pytest.raises(ValueError, match="tilegym.test_twice return something else than the last"):
        steps.divided(fusion, Call(op, {"x": x}, (x,), (x,)), 1)
