"""The interpreter's view of cuTile's IR is that of the installed cuda-tile, whole and unchanged."""

from __future__ import annotations

import importlib.metadata

import cuda.tile as ct
import pytest
import torch

from tile_backend.lowering.interpreter import adapter, atomics, control, elementwise, launch
from tile_backend.lowering.interpreter.contract import CUDA_TILE, ENUMS, OPCODES, TYPES, Fields
from tile_backend.lowering.interpreter.elements import ELEMENTS, of_torch
from tile_backend.lowering.interpreter.families import FAMILIES
from tile_backend.lowering.interpreter.faults import UnsupportedKernel
from tile_backend.lowering.interpreter.program import Padding
from tile_backend.lowering.interpreter.registry import HANDLERS
from tile_backend.lowering.kernels.signature import DTYPES

ADVICE = (
    "cuda-tile has changed: bring contract.TABLE up to date, write or adapt the handlers of what is"
    " listed here, and only then raise the version in setup.cfg"
)


def test_the_version_is_the_one_that_the_table_was_made_from() -> None:
    assert importlib.metadata.version("cuda-tile").startswith(f"{CUDA_TILE}."), ADVICE


def test_every_opcode_and_field_is_known() -> None:
    declared = adapter.declared_opcodes()
    assert sorted(set(declared) ^ set(OPCODES)) == [], ADVICE
    changed = {
        opcode: (fields, OPCODES[opcode])
        for opcode, fields in declared.items()
        if any(
            set(ours) != set(theirs) for ours, theirs in zip(fields, OPCODES[opcode], strict=True)
        )
    }
    assert changed == {}, ADVICE


def test_every_enumeration_and_type_is_known() -> None:
    assert adapter.declared_enums() == ENUMS, ADVICE
    assert adapter.declared_types() == TYPES, ADVICE
    assert set(atomics.MODES) == set(ENUMS["AtomicRMWMode"])
    assert [padding.name for padding in Padding] == list(ENUMS["PaddingMode"])


def test_every_opcode_has_one_handler() -> None:
    assert FAMILIES
    assert sorted({*HANDLERS, *control.CONTROL}) == sorted(OPCODES)
    assert set(HANDLERS).isdisjoint(control.CONTROL)


def test_every_element_type_is_known() -> None:
    theirs = {
        name
        for name, value in vars(ct).items()
        if isinstance(value, type(ct.float32)) and value.name == name
    }
    assert theirs <= set(ELEMENTS), ADVICE
    for ours, dtype in DTYPES.items():
        assert of_torch(ours).name == dtype.name


@ct.kernel
def doubles(x: ct.Array) -> None:
    ct.store(x, (0,), ct.load(x, (0,), (2,)) * 2.0)


def test_an_unknown_opcode_is_named_with_kernel_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {opcode: fields for opcode, fields in OPCODES.items() if opcode != "raw_binary_arith"}
    monkeypatch.setattr(adapter, "OPCODES", fewer)
    words = r"kernel doubles at test_interpreter_contract\.py:\d+: `raw_binary_arith`: an opcode"
    with pytest.raises(UnsupportedKernel, match=words) as e:
        launch.interpret((1,), doubles, (torch.ones(2),))
    assert e.value.opcode == "raw_binary_arith"
    assert e.value.source is not None
    assert e.value.source.path == __file__


def test_an_unknown_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(elementwise.FLOAT, "mul")
    with pytest.raises(UnsupportedKernel, match=r"`raw_binary_arith`: fn 'mul'; known are add"):
        launch.interpret((1,), doubles, (torch.ones(2),))


def test_an_unexpected_error_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("injected")

    monkeypatch.setitem(elementwise.FLOAT, "mul", fails)
    with pytest.raises(ZeroDivisionError) as e:
        launch.interpret((1,), doubles, (torch.ones(2),))
    (note,) = e.value.__notes__
    assert note.startswith("while interpreting `raw_binary_arith` of kernel doubles at test_interp")


def test_the_table_is_read_as_it_is_written() -> None:
    assert OPCODES["fma"] == Fields(("lhs", "rhs", "acc"), ("rounding_mode", "flush_to_zero"), ())
    assert OPCODES["return"] == Fields((), (), ())
    assert OPCODES["ifelse"].blocks == ("then_block", "else_block")
