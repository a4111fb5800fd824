"""Compiled kernels pass their gates, docs/kernels.md is what they compile to; gates can fail."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import Any

import pytest
import torch

from tests import fake_compiler, kernel_compile, kernel_remarks
from tests.kernel_compile import ARCHITECTURES, OPS, Case, cases
from tests.kernel_report import gates, remarks, report, table
from tests.kernel_report.exceptions import EXCEPTIONS, FEWEST_WARPS, Exempt
from tests.kernel_report.facts import Facts
from tile_backend.lowering.kernels import attention
from tile_backend.lowering.kernels.attention_plan import WIDEST_HEAD
from tile_backend.lowering.kernels.attention_tiles import AttentionTiles, attention_tiles
from tile_backend.lowering.kernels.row_layout import row_tile
from tile_backend.lowering.multiprocessor import LIMITS, resident_blocks, resident_warps

NORM = Case("rms_norm", "once", "sm_90")
ATTENTION = Case("attention", "causal", "sm_90")
GOOD = Facts(
    threads=256,
    registers=40,
    local=0,
    shared=1024,
    warps=48,
    matrix=False,
    chosen={"Global-memory load instruction": 8},
    opcodes={},
)
GOOD_WITH_FEW = dataclasses.replace(GOOD, warps=24)
PRODUCT = dataclasses.replace(
    GOOD,
    matrix=True,
    warps=12,
    chosen={"Tensor-core SM90": 4, "TMA Load instruction": 5},
    opcodes={"HGMMA": 48, "FADD": 500},
)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_compiled_kernels_pass_the_gates(op: str) -> None:
    """And stand in docs/kernels.md as what they compile to; `full` has those that are left out."""
    facts = report.measured(op, kernel_compile.quick_cases)
    assert {case.arch for case in facts} == set(kernel_compile.quick_architectures(op))
    assert [str(finding) for finding in gates.unexcused(gates.findings(facts))] == []
    assert set(table.rows(facts)) <= set(report.PAGE.read_text(encoding="utf-8").splitlines()), (
        "docs/kernels.md is not what the kernels compile to: run make kernel-report"
    )


@pytest.mark.full
@pytest.mark.parametrize("op", OPS)
def test_all_compiled_kernels_pass_the_gates(op: str) -> None:
    facts = report.measured(op)
    assert [str(finding) for finding in gates.unexcused(gates.findings(facts))] == []


@pytest.mark.full
def test_the_page_is_what_the_kernels_compile_to() -> None:
    facts = report.measured()
    assert gates.stale(gates.findings(facts)) == []
    assert report.PAGE.read_text(encoding="utf-8") == report.page(facts), (
        "docs/kernels.md is not what the kernels compile to: run make kernel-report"
    )


def test_every_configuration_of_attention_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile that attention_tiles gives to a width, length, dtype and ids, everywhere."""
    planned = []

    def noted(arch: str, *rest: Any) -> AttentionTiles:
        tiles = attention_tiles(arch, *rest)
        planned.append((arch, tiles))
        return tiles

    monkeypatch.setattr(attention, "attention_tiles", noted)
    for case in cases():
        if case.op == "attention":
            kernel_compile.launch_of(case)
    missing = [
        (arch, *given)
        for arch in ARCHITECTURES
        for dtype, widest in WIDEST_HEAD.items()
        for given in itertools.product(
            (1, 16, 32, 64, 128, 256), (1, 16, 40, 512), (dtype,), (False, True)
        )
        if given[0] <= widest and (arch, attention_tiles(arch, *given)) not in planned
    ]
    assert missing == []


def test_every_size_of_a_row_tile_is_compiled() -> None:
    """The sizes of a row kernel's block: a whole row, several rows, a piece of a row."""
    compiled = {case.op: set[int]() for case in cases()}
    for case in cases():
        arguments, _ = kernel_compile.samples_of(case.op)[case.sample]
        if isinstance(x := arguments.get("x"), torch.Tensor):
            compiled[case.op].add(row_tile(x.shape[-1]).warps)
    norms = [op for op in OPS if op.endswith("norm")]
    assert {op: compiled[op] for op in norms} == {op: {4, 8} for op in norms}


# --- the gates find what they look for -----------------------------------------------------------


def failing(case: Case, **changed: Any) -> list[str]:
    facts = dataclasses.replace(PRODUCT if case is ATTENTION else GOOD, **changed)
    return [finding.gate for finding in gates.findings({case: facts})]


def test_good_kernels_pass() -> None:
    assert failing(NORM) == failing(ATTENTION) == []


@pytest.mark.parametrize("opcode", ("LDL", "STL"))
def test_a_spill_is_found_where_none_may_be(opcode: str) -> None:
    spilled = {**PRODUCT.opcodes, opcode: 1}
    assert failing(ATTENTION, opcodes=spilled) == ["spills"]
    allowed = dataclasses.replace(PRODUCT, opcodes={"HMMA": 8, opcode: 1})
    assert gates.findings({dataclasses.replace(ATTENTION, arch="sm_80"): allowed}) == []


@pytest.mark.parametrize(
    ("opcodes", "text"),
    (
        ({"HMMA": 32}, "32 HMMA instead of HGMMA"),
        ({"HGMMA": 16, "HMMA": 2}, "2 HMMA instead of HGMMA"),
        ({"FFMA": 4096}, "no tensor cores"),
    ),
)
def test_products_of_another_kind_are_found(opcodes: dict[str, int], text: str) -> None:
    (finding,) = gates.findings({ATTENTION: dataclasses.replace(PRODUCT, opcodes=opcodes)})
    assert finding.gate == "products"
    assert text in str(finding)


def test_too_few_warps_are_found_in_streaming_kernels_only() -> None:
    assert failing(NORM, warps=FEWEST_WARPS - 1) == ["warps"]
    assert failing(ATTENTION, warps=4) == []


def test_an_exception_excuses_its_number_and_no_worse_one() -> None:
    exempt = Exempt("warps", "rms_norm-*", ("sm_90",), 8, "a reason")
    few = gates.findings({NORM: dataclasses.replace(GOOD, warps=24)})
    fewer = gates.findings({NORM: dataclasses.replace(GOOD, warps=16)})
    elsewhere = gates.findings({dataclasses.replace(NORM, arch="sm_80"): GOOD_WITH_FEW})
    assert gates.unexcused(few, [exempt]) == gates.stale(few, [exempt]) == []
    assert gates.unexcused(fewer, [exempt]) == fewer
    assert gates.unexcused(elsewhere, [exempt]) == elsewhere
    assert gates.stale([], [exempt]) == gates.stale(fewer, [exempt]) == [exempt]


def test_every_exception_has_a_reason() -> None:
    assert [e for e in EXCEPTIONS if len(e.reason.split()) < 5] == []


# --- what is read, and the arithmetic ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks"),
    (
        ("sm_90", 256, 255, 25 << 10, 1),  # registers
        ("sm_90", 256, 32, 25 << 10, 8),  # warps
        ("sm_90", 384, 168, 97 << 10, 1),  # registers: 12 warps of 168 fill the file
        ("sm_90", 128, 32, 113 << 10, 2),  # shared memory
        ("sm_90", 32, 16, 1024, 32),  # blocks
        ("sm_80", 128, 80, 0, 6),  # registers by quarters: 24 warps
        ("sm_120", 128, 40, 1024, 12),  # warps: 48
    ),
)
def test_resident_blocks(arch: str, threads: int, registers: int, shared: int, blocks: int) -> None:
    assert resident_blocks(arch, threads, registers, shared) == blocks
    assert resident_warps(arch, threads, registers, shared) == blocks * threads // 32


def test_every_architecture_has_limits() -> None:
    assert set(LIMITS) == set(gates.PRODUCTS) == set(ARCHITECTURES)


REMARKS = """--- !Passed
Pass:            Memory
Args:
  - RemarkId:    10
  - Remark:      Load instruction selected
  - Instruction: TMA Load instruction
...
--- !Passed
Pass:            Hints
Args:
  - RemarkId:    4
  - Remark:      OptimizationHint used default latency
...
--- !Passed
Pass:            Tensor-core
Args:
  - RemarkId:    11
  - Instruction: Tensor-core SM90
...
"""


def test_remarks_said_twice_count_once() -> None:
    assert remarks.chosen(REMARKS + REMARKS) == {"TMA Load instruction": 1, "Tensor-core SM90": 1}


def test_remarks_of_a_compile_that_failed_are_not_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEGYM_TEST_CACHE", str(tmp_path / "cache"))
    with fake_compiler.installed(tmp_path, monkeypatch) as fake:
        fake.compiles_with("exit 3")
        (error,) = kernel_compile.compile_all([NORM]).values()
        assert "ended with status 3" in error
    assert not list((tmp_path / "cache").glob(f"*{kernel_remarks.REMARKS}"))
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_the_page_shows_exceptions_and_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    exempt = Exempt("warps", "rms_norm-once", ("sm_90",), 8, "a reason that says why")
    monkeypatch.setattr(table, "EXCEPTIONS", (exempt,))
    text = table.markdown({NORM: GOOD_WITH_FEW, ATTENTION: PRODUCT}, {"tileiras": "1.2"})
    assert "tileiras 1.2; 2 compiled kernels." in text
    assert "24 warps per multiprocessor, fewer than 32 | a reason that says why |" in text
    row = "| attention | causal | sm_90 | 256 | 40 | 1.0 | 12 of 64 | 0 | 48 HGMMA | 5 TMA Load |"
    assert row in text
