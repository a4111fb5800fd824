"""Every kernel compiles for every architecture, from meta tensors and without a GPU."""

from __future__ import annotations

import pathlib

import pytest

from tests import fake_compiler
from tests.kernel_compile import (
    ARCHITECTURES,
    MAIN_ARCHITECTURE,
    OPS,
    Case,
    cases,
    compile_all,
    quick_architectures,
    quick_cases,
    samples_of,
)

MATRIX = tuple(cases())


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_every_sample_compiles(op: str) -> None:
    compiled = compile_all(case for case in quick_cases() if case.op == op)
    assert {case.arch for case in compiled} == set(quick_architectures(op))
    assert {str(case): error for case, error in compiled.items() if error} == {}


@pytest.mark.full
@pytest.mark.parametrize("op", OPS)
def test_every_sample_compiles_everywhere(op: str) -> None:
    compiled = compile_all(case for case in MATRIX if case.op == op)
    assert {str(case): error for case, error in compiled.items() if error} == {}


@pytest.mark.slow
@pytest.mark.sampled(3, each=lambda op: [op.partition("_")[0]])
@pytest.mark.parametrize("op", OPS)
def test_indices_of_64_bits_compile(op: str) -> None:
    case = Case(op, next(iter(samples_of(op))), MAIN_ARCHITECTURE)
    assert compile_all([case], wide=True) == {case: ""}


def test_the_matrix_has_every_kernel_on_every_architecture() -> None:
    for op in OPS:
        assert {case.arch for case in MATRIX if case.op == op} == set(ARCHITECTURES)
        assert {case.sample for case in MATRIX if case.op == op} == set(samples_of(op))


def test_what_make_test_compiles_has_rows_and_products_on_every_architecture() -> None:
    products = [op for op in OPS if op.startswith("attention")]
    for arch in ARCHITECTURES:
        ops = {case.op for case in quick_cases() if case.arch == arch}
        assert ops & set(products), arch
        assert ops - set(products), arch
    assert {case.op for case in quick_cases() if case.arch == MAIN_ARCHITECTURE} == set(OPS)


def test_a_result_is_compiled_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_TEST_CACHE", str(tmp_path / "cache"))
    with fake_compiler.installed(tmp_path, monkeypatch) as fake:
        case = Case("silu_mul", next(iter(samples_of("silu_mul"))), "sm_90")
        assert compile_all([case]) == compile_all([case]) == {case: ""}
        assert len(fake.compiles()) == 1
        fake.compiles_with("exit 3")
        other = Case("silu_mul", case.sample, "sm_80")
        assert "ended with status 3" in compile_all([other])[other]
    assert len(list((tmp_path / "cache").glob("*.cubin.xz"))) == 1
