"""Every kernel compiles for every architecture, from meta tensors and without a GPU."""

from __future__ import annotations

import pathlib

import pytest

from tests.kernel_compile import (
    ARCHITECTURES,
    OPS,
    Case,
    cases,
    compile_all,
    compile_case,
    key_of,
    samples_of,
)

MATRIX = tuple(cases())


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_every_sample_compiles(op: str) -> None:
    compiled = compile_all(case for case in MATRIX if case.op == op)
    assert {str(case): error for case, error in compiled.items() if error} == {}


def test_the_matrix_has_every_kernel_on_every_architecture() -> None:
    for op in OPS:
        assert {case.arch for case in MATRIX if case.op == op} == set(ARCHITECTURES)
        assert {case.sample for case in MATRIX if case.op == op} == set(samples_of(op))


def test_a_stored_result_is_not_compiled_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEGYM_TEST_CACHE", str(tmp_path))
    case = Case("silu_mul", next(iter(samples_of("silu_mul"))), "sm_90")
    (tmp_path / f"{key_of(case)}.cubin.xz").write_bytes(b"stored")
    assert compile_case(case) == (case, "")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"stored"]


def test_the_key_depends_on_architecture_and_sample() -> None:
    keys = [key_of(case) for case in MATRIX]
    assert len(set(keys)) > len(keys) // 2
    first, second, *_ = (c for c in MATRIX if (c.op, c.sample) == ("softmax", "router"))
    assert key_of(first) != key_of(second)
