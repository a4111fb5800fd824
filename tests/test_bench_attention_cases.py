"""The programs of `bench.attention`: their masks, their work, and every way to compute them."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bench import attention_cases, attention_versions
from bench.attention_cases import Case, mask_of, program
from bench.attention_versions import UnavailableError, outcome
from tests.small_attention_cases import CPU, GPU, KINDS, small
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget


def shown(case: Case) -> torch.Tensor:
    """Which keys each query sees, [B, S, L], one by one."""
    mask = torch.zeros(case.batch, case.queries, case.keys, dtype=torch.bool)
    operands = [x.tolist() for x in case.operands("cpu")]
    for entry in range(case.batch):
        for query in range(case.queries):
            for key in range(case.keys):
                place = query + (operands[0] if case.decodes else 0)
                sees = case.mask == "none" or key <= place
                sees &= case.mask != "window" or key > place - case.size
                sees &= case.mask != "chunk" or key // case.size == place // case.size
                if case.mask == "padding":
                    sees &= operands[0][entry][key]
                if case.mask == "packed":
                    sees &= operands[0][entry][key] == operands[0][entry][query]
                mask[entry, query, key] = sees
    return mask


# --- cases ----------------------------------------------------------------------------------------


def test_titles_are_distinct_and_every_kind_of_mask_occurs() -> None:
    for cases in (GPU, CPU):
        assert len({case.title for case in cases}) == len(cases)
    assert KINDS.keys() == attention_cases.MASKS.keys()
    assert {case.dtype for case in GPU} == {torch.bfloat16}
    assert {case.dtype for case in CPU} == {torch.float32}


@pytest.mark.parametrize("case", (*GPU, *CPU), ids=lambda case: case.title)
def test_work_is_what_the_mask_shows(case: Case) -> None:
    case = small(case)
    mask = mask_of(case, *case.inputs("cpu")[:2], *case.operands("cpu"))
    if mask is None:
        pairs = case.batch * case.queries * case.keys
    else:
        assert mask.shape == (case.batch, 1, case.queries, case.keys)
        pairs = int(mask.sum())
        if case.decodes:
            last = int(mask.any(0)[0, 0].nonzero().max())
            seen = 2 * case.batch * 2 * (last + 1) * 16
            assert case.bytes == seen * torch.float32.itemsize
    assert case.pairs == pairs > 0
    assert case.flop == 4 * pairs * case.heads * 16 * (3.5 if case.train else 1)


def test_work_of_one_case_of_full_size() -> None:
    (case,) = (case for case in GPU if case.title == "causal 4x1024 training")
    assert case.flop == 3.5 * 4 * 4 * 32 * (1024 * 1025 // 2) * 128
    (case,) = (case for case in GPU if case.title == "decode 8x4096 of 32768 groups 4")
    assert case.bytes == 2 * 8 * 8 * 4096 * 128 * 2
    assert case.inputs("meta")[1].shape == (8, 8, 32768, 128)


@pytest.mark.parametrize("case", [*KINDS.values(), small(GPU[-1])], ids=[*KINDS, "filled partly"])
def test_masks_are_what_their_names_say(case: Case) -> None:
    mask = mask_of(case, *case.inputs("cpu")[:2], *case.operands("cpu"))
    expected = shown(case)
    assert torch.equal(expected if mask is None else mask[:, 0], expected)


def test_sequences_have_different_lengths_and_end_where_no_tile_does() -> None:
    for case in (case for case in GPU if case.mask in ("padding", "packed")):
        lengths = case.pads if case.mask == "padding" else case.packed[:-1]
        assert len(set(lengths)) == len(lengths) > 1
        assert all(length % 128 for length in lengths)
    assert sum(case.packed) == case.keys


def test_inputs_lie_as_projections_leave_them() -> None:
    q, k, _ = KINDS["causal"].inputs("cpu")
    assert q.transpose(1, 2).is_contiguous()
    assert not k.is_contiguous()


# --- versions -------------------------------------------------------------------------------------


def directly(case: Case, *inputs: torch.Tensor) -> torch.Tensor:
    """softmax(q @ k^T) @ v, with the mask that was made one by one."""
    q, k, v = inputs[:3]
    k, v = (x.repeat_interleave(case.groups, 1) for x in (k, v))
    scores = (q @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~shown(case)[:, None], -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


def by_torch(case: Case, *inputs: torch.Tensor) -> torch.Tensor:
    """The same as one call: what it rounds depends on the kernel that computes it."""
    q, k, v = inputs[:3]
    k, v = (x.repeat_interleave(case.groups, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=shown(case)[:, None])


def agrees(case: Case, function: Any, original: Any = by_torch) -> None:
    """Results and gradients of all heads are within the budget. original: rounds as it does."""
    inputs = case.inputs("cpu")
    slope = torch.randn_like(inputs[0]) if case.train else None
    wide = None if slope is None else slope.double()
    exact = outcome(functools.partial(directly, case), oracle.widened(inputs), wide)
    usual = outcome(functools.partial(original, case), inputs, slope)
    verdict = within_budget(outcome(function, inputs, slope), exact, usual)
    assert verdict, str(verdict)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.mark.parametrize("train", (False, True))
@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_programs_compute_attention(case: Case, train: bool) -> None:
    case = dataclasses.replace(case, train=train)
    agrees(case, program(case))


@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_so_do_the_calls_by_hand(case: Case) -> None:
    case = dataclasses.replace(case, train=True)
    agrees(case, attention_versions.by_hand(case, case.inputs("cpu")))
    agrees(case, attention_versions.by_backend("MATH", case, case.inputs("cpu")), directly)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_so_does_flex_attention(case: Case) -> None:
    case = dataclasses.replace(case, train=False)
    agrees(case, attention_versions.flex(case, case.inputs("cpu")), directly)


def test_a_backend_that_refuses_says_why() -> None:
    case = KINDS["window"]
    with pytest.raises(UnavailableError, match="No (viable backend|available kernel)"):
        attention_versions.by_backend("CUDNN_ATTENTION", case, case.inputs("cpu"))


def test_fmha_takes_some_cases_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def like_fmha(q: Any, k: Any, v: Any, *, scaling: float, is_causal: bool) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=is_causal, scale=scaling, enable_gqa=True
        )

    installed = types.SimpleNamespace(fmha=like_fmha)
    monkeypatch.setattr("importlib.import_module", {"tilegym.ops": installed}.__getitem__)
    for kind, found in KINDS.items():
        case = dataclasses.replace(found, train=False)
        if kind in ("none", "causal"):
            agrees(case, attention_versions.fmha(case, case.inputs("cpu")))
        else:
            with pytest.raises(UnavailableError, match="takes no mask"):
                attention_versions.fmha(case, case.inputs("cpu"))
    with pytest.raises(UnavailableError, match="no gradient"):
        attention_versions.fmha(dataclasses.replace(KINDS["causal"], train=True), [])


def test_where_fmha_is_not_installed_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tilegym", None)
    case = dataclasses.replace(KINDS["causal"], train=False)
    with pytest.raises(UnavailableError, match="TileGym cannot be imported"):
        attention_versions.fmha(case, [])


def test_a_gpu_has_more_versions() -> None:
    assert list(attention_versions.makers("cpu")) == ["tilegym", "inductor", "sdpa"]
    more = ["flash", "cudnn", "efficient", "math", "flex", "fmha"]
    assert list(attention_versions.makers("cuda"))[3:] == more
