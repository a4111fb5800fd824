"""The only module that touches cuda.tile's private classes: its front end and its IR.

`build(kernel, signature)` has the front end type, inline and optimise the kernel, and copies the
final IR into a `Program`. No compiler and no driver is needed. `declared_opcodes` says what the
installed cuda-tile has, for the test of `contract`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cuda.tile
import torch
from cuda.tile._annotated_function import (
    HeterogeneousTupleNode,
    HomogeneousTupleNode,
    LeafAnnotationNode,
)
from cuda.tile._bytecode.version import BytecodeVersion
from cuda.tile._compile import compile_tile
from cuda.tile._datatype import (
    PointerInfo,
    foreign_pointer_pointee_dtype,
    is_foreign_pointer_dtype,
    is_pointer_dtype,
)
from cuda.tile._ir import ir
from cuda.tile._ir import type as ir_type
from cuda.tile._ir.ops import AtomicRMWMode
from cuda.tile._memory_model import MemoryOrder
from cuda.tile._numeric_semantics import RoundingMode
from cuda.tile.compilation import (
    ArrayConstraint,
    ConstantConstraint,
    ListConstraint,
    TupleConstraint,
)

from tile_backend.lowering.interpreter import bits
from tile_backend.lowering.interpreter.contract import OPCODES, Fields
from tile_backend.lowering.interpreter.elements import ELEMENTS, Element, pointer_to
from tile_backend.lowering.interpreter.faults import UnsupportedKernel
from tile_backend.lowering.interpreter.program import (
    ArrayType,
    Block,
    Op,
    Padding,
    Program,
    Source,
    TileType,
    TokenType,
    Type,
    Value,
    ViewType,
)

BYTECODE = BytecodeVersion.V_13_4
"""The newest that cuda-tile 1.7 writes: with older ones some opcodes are spelled out."""
PROGRAMS_KEPT = 512
_LIBRARY = str(pathlib.Path(cuda.tile.__file__).parent)


def build(kernel: Any, signature: Any) -> Program:
    """The program of a `cuda.tile.kernel` for one signature; remembered.

    Raises cuda.tile.TileError as a launch would, and UnsupportedKernel for unknown opcodes.
    """
    return _build(_Key(kernel, signature, signature.with_mangled_symbol("k").symbol))


class _Key:
    """A kernel function and the text of a signature; carries what is needed to build it."""

    def __init__(self, kernel: Any, signature: Any, symbol: str) -> None:
        self.function, self.signature = kernel._annotated_function, signature
        self.identity = (self.function.pyfunc, symbol)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


@functools.lru_cache(maxsize=PROGRAMS_KEPT)
def _build(key: _Key) -> Program:
    result = compile_tile(
        key.function,
        [key.signature],
        sm_arch=None,
        return_final_ir=True,
        return_cubin=False,
        bytecode_version=BYTECODE,
    )
    assert result.final_ir is not None, "compile_tile returns the IR that it was asked for"
    return _Adapter(key.function.pyfunc).program(result.final_ir[0], key)


def parameter_names(kernel: Any) -> tuple[str, ...]:
    """The names of the kernel function's parameters."""
    return tuple(kernel._annotated_function.pysig.parameters)


def declared_opcodes() -> Mapping[str, Fields]:
    """Opcode -> fields of every operation class of the installed cuda-tile."""

    def classes(base: type[Any]) -> Iterator[type[Any]]:
        for found in base.__subclasses__():
            yield found
            yield from classes(found)

    return {
        each._opcode: Fields(each._operand_names, each._attribute_names, each._nested_block_names)
        for each in classes(ir.Operation)
        if each.__module__.startswith("cuda.tile.")
    }


def declared_enums() -> Mapping[str, tuple[str, ...]]:
    """The members of the enumerations in attributes."""
    enums = (RoundingMode, cuda.tile.PaddingMode, MemoryOrder, AtomicRMWMode)
    return {each.__name__: tuple(member.name for member in each) for each in enums}


def declared_types() -> Mapping[str, tuple[str, ...]]:
    """The fields of views' types and of annotations."""
    views = (ir_type.PartitionViewTy, ir_type.StridedViewTy, ir_type.GatherScatterViewTy)
    nodes = (LeafAnnotationNode, HomogeneousTupleNode, HeterogeneousTupleNode)
    return {
        each.__name__: tuple(field.name for field in dataclasses.fields(each))
        for each in (*views, *nodes)
    }


class _Adapter:
    """Copies one kernel's IR, giving each variable a slot."""

    def __init__(self, function: Any) -> None:
        self.kernel: str = function.__name__
        self.definition = Source(function.__code__.co_filename, function.__code__.co_firstlineno)
        self.values: dict[str, Value] = {}
        self.constants: list[tuple[Value, torch.Tensor]] = []

    def program(self, body: Any, key: _Key) -> Program:
        flat = [self.value(var) for var in body.params]
        parameters = []
        names = key.function.pysig.parameters
        for name, constraint in zip(names, key.signature.parameters, strict=True):
            for leaf, count in _leaves(name, constraint):
                parameters.append((leaf, tuple(flat[:count])))
                del flat[:count]
        assert not flat, "the IR has parameters that the signature does not explain"
        block = self.block(body)
        return Program(
            self.kernel, tuple(parameters), block, tuple(self.constants), len(self.values)
        )

    def block(self, block: Any) -> Block:
        parameters = tuple(self.value(var) for var in block.params)
        return Block(parameters, tuple(self.op(op) for op in block))

    def op(self, op: Any) -> Op:
        source = self.source(op.loc)
        if op.op not in OPCODES:
            text = "an opcode that the interpreter does not know; it was written for cuda-tile 1.7"
            raise UnsupportedKernel(self.kernel, source, op.op, text)
        operands = {name: self.operand(value) for name, value in op.operands.items()}
        attributes = {name: _plain(value) for name, value in op.attributes.items()}
        blocks = {name: self.block(getattr(op, name)) for name in OPCODES[op.op].blocks}
        results = tuple(self.value(var) for var in op.result_vars)
        if op.op == "typed_const":
            self.constants.append((results[0], bits.constant(op.value, results[0])))
        inputs: list[Value] = []
        for operand in operands.values():
            inputs += operand if isinstance(operand, tuple) else [operand] if operand else []
        return Op(
            op.op,
            results,
            {**operands, **attributes, **blocks},
            tuple(inputs),
            tuple(blocks.values()),
            source,
        )

    def operand(self, operand: Any) -> Value | tuple[Value, ...] | None:
        if isinstance(operand, tuple):
            return tuple(self.value(var) for var in operand)
        return None if operand is None else self.value(operand)

    def value(self, var: Any) -> Value:
        if var.name not in self.values:
            self.values[var.name] = Value(len(self.values), var.name, _type(var.get_type()))
        return self.values[var.name]

    def source(self, loc: Any) -> Source:
        """The innermost line outside cuda.tile itself, and its callers."""
        frames: list[tuple[str, int]] = []
        while loc is not None:
            if loc.filename and not loc.filename.startswith(_LIBRARY):
                frames.append((loc.filename, loc.line))
            loc = loc.call_site
        if not frames:
            return self.definition
        (path, line), *calls = frames
        return Source(path, line, tuple(calls))


def _leaves(name: str, constraint: Any) -> Iterator[tuple[str, int]]:
    """The parameters of the IR that one of the kernel has: name and number of values."""
    if isinstance(constraint, TupleConstraint):
        for index, item in enumerate(constraint.items):
            yield from _leaves(f"{name}[{index}]", item)
    elif isinstance(constraint, ArrayConstraint):
        yield name, 1 + 2 * constraint.ndim
    elif isinstance(constraint, ListConstraint):
        yield name, 2
    elif not isinstance(constraint, ConstantConstraint):
        yield name, 1


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, enum.Enum) else value


def _element(dtype: Any) -> Element:
    if is_pointer_dtype(dtype):
        info = PointerInfo(dtype)
        return pointer_to(ELEMENTS["uint8"] if info.opaque else _element(info.pointee_dtype))
    if is_foreign_pointer_dtype(dtype):
        return pointer_to(_element(foreign_pointer_pointee_dtype(dtype)))
    return ELEMENTS[dtype.name]


def _type(found: Any) -> Type:
    if isinstance(found, ir_type.TileTy):
        return TileType(_element(found.dtype), tuple(found.shape))
    if isinstance(found, ir_type.TokenTy):
        return TokenType()
    if isinstance(found, ir_type.ArrayTy):
        return ArrayType(_element(found.dtype), found.ndim)
    if isinstance(found, ir_type.ListTy):
        items = _type(found.item_type)
        assert isinstance(items, ArrayType), "a list parameter holds arrays"
        return ArrayType(items.element, 1, items)
    return _view_type(found)


def _view_type(found: Any) -> ViewType:
    shape = tuple(found.tile_shape)
    axes: Sequence[int] = getattr(found, "order", range(len(shape)))
    sparse: int | None = getattr(found, "sparse_dim", None)
    return ViewType(
        element=_element(found.array_ty.dtype),
        tile_shape=shape,
        order=tuple(axes),
        # The index of a gather/scatter view counts elements, not tiles.
        steps=tuple(
            getattr(found, "traversal_steps", (1,) * len(shape) if sparse is not None else shape)
        ),
        sparse=sparse,
        padding=Padding(found.padding_mode.value),
    )
