"""The programs of `bench.attention`: their masks, their work, and every way to compute them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import attention_programs, attention_versions
from bench.attention_cases import Case
from bench.attention_programs import mask_of, program
from bench.versions import UnavailableError
from tests.plain_attention import agrees, directly, shown
from tests.small_attention_cases import CPU, GPU, KINDS, WRITTEN_OUT, small

# --- cases ----------------------------------------------------------------------------------------


def test_titles_are_distinct_and_every_kind_of_mask_occurs() -> None:
    for cases in (GPU, CPU):
        assert len({case.title for case in cases}) == len(cases)
    assert KINDS.keys() == attention_programs.MASKS.keys()
    assert set(WRITTEN_OUT) == {
        *("cap causal", "cap window"),
        *("sinks causal", "sinks window", "sinks decode"),
    }
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


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.mark.parametrize("train", (False, True))
@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_programs_compute_attention(case: Case, train: bool) -> None:
    case = dataclasses.replace(case, train=train)
    agrees(case, program(case))


@pytest.mark.parametrize("case", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_programs_write_caps_and_sinks_out(case: Case) -> None:
    agrees(case, program(case), directly)
    with pytest.raises(UnavailableError, match="SDPA has no soft cap and no sinks"):
        attention_versions.by_hand(case, case.inputs("cpu"))


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


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_flex_attention_has_caps_and_no_sinks(case: Case) -> None:
    case = dataclasses.replace(case, train=False)
    inputs = case.inputs("cpu")
    if case.cap:
        agrees(case, attention_versions.flex(case, inputs), directly)
    else:
        with pytest.raises(UnavailableError, match="no sinks"):
            attention_versions.flex(case, inputs)


def test_a_backend_that_refuses_says_why() -> None:
    case = KINDS["window"]
    with pytest.raises(UnavailableError, match="No (viable backend|available kernel)"):
        attention_versions.by_backend("CUDNN_ATTENTION", case, case.inputs("cpu"))


def test_a_gpu_has_more_versions() -> None:
    assert list(attention_versions.makers("cpu")) == ["tilegym", "inductor", "sdpa"]
    more = ["flash", "cudnn", "efficient", "math", "flex", "TileGym"]
    assert list(attention_versions.makers("cuda"))[3:] == more
