"""The arguments of a launch: what the launcher would infer of them, and their values in the IR.

Tensors, numbers, tuples of these, and lists of tensors, as `cuda.tile.launch` takes them; CPU
tensors only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from cuda.tile.compilation import (
    ArrayConstraint,
    CallingConvention,
    ConstantConstraint,
    KernelSignature,
    ListConstraint,
    ScalarConstraint,
    TupleConstraint,
)

from tile_backend.lowering.interpreter.memory import Memory
from tile_backend.lowering.kernels import signature as inferred


def signature_of(names: Sequence[str], annotations: Sequence[Any], args: Sequence[Any]) -> Any:
    """The KernelSignature that the launcher infers. Raises TypeError for what it refuses."""
    constraints = [
        _constraint(name, annotation, arg)
        for name, annotation, arg in zip(names, annotations, args, strict=True)
    ]
    return KernelSignature(constraints, CallingConvention.cutile_python_v2())


def _constraint(name: str, annotation: Any, arg: Any) -> Any:
    if isinstance(arg, tuple):
        items = [
            _constraint(f"{name}[{i}]", node, item)
            for i, (node, item) in enumerate(zip(_nodes(annotation, len(arg)), arg, strict=True))
        ]
        return TupleConstraint(items)
    if getattr(annotation, "constant", False):
        return ConstantConstraint(arg)
    if isinstance(arg, torch.Tensor):
        _require_cpu(name, arg)
        return _array(arg, annotation.array)
    if isinstance(arg, list):
        return _list(name, annotation, arg)
    if annotation.scalar is not None:
        return ScalarConstraint(annotation.scalar.dtype)
    return inferred.constraint_of(arg)


def _nodes(annotation: Any, count: int) -> Sequence[Any]:
    """The annotation of each item of a tuple."""
    each, items = getattr(annotation, "each", None), getattr(annotation, "items", None)
    return items if items is not None else [annotation if each is None else each] * count


def _require_cpu(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise TypeError(
            f"the interpreter takes CPU tensors, and `{name}` is on {tensor.device}: copy it with"
            " .cpu(), or launch the kernel with cuda.tile.launch"
        )
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        raise TypeError(f"`{name}` is a {type(tensor).__name__}, which has no memory to read")


def _array(tensor: torch.Tensor, annotation: Any) -> Any:
    """What the launcher infers; an annotation asks for static sizes, or for int64 ones."""
    found = inferred.array_constraint(tensor)
    if annotation is None:
        return found
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(ArrayConstraint)}
    fields["index_dtype"] = annotation.index_dtype
    if annotation.static_shape_dims:
        fields["shape_constant"] = _some(tensor.shape, annotation.static_shape_dims)
    if annotation.static_stride_dims:
        fields["stride_constant"] = _some(tensor.stride(), annotation.static_stride_dims)
    return ArrayConstraint(**fields)


def _some(values: Sequence[int], axes: Sequence[int]) -> tuple[int | None, ...]:
    chosen = {axis % len(values) for axis in axes}
    return tuple(value if axis in chosen else None for axis, value in enumerate(values))


def _list(name: str, annotation: Any, arrays: Sequence[Any]) -> Any:
    """One constraint for all: what holds of every array."""
    if not arrays:
        raise TypeError(f"`{name}` is an empty list; a kernel takes a list of at least one array")
    for index, array in enumerate(arrays):
        _require_cpu(f"{name}[{index}]", array)
    element = None if annotation.list is None else annotation.list.element
    found = [_array(array, element) for array in arrays]
    first, *others = found
    if any(other.dtype != first.dtype or other.ndim != first.ndim for other in others):
        raise TypeError(f"the arrays of `{name}` differ in dtype or rank")
    weakest = ArrayConstraint(
        dtype=first.dtype,
        ndim=first.ndim,
        index_dtype=first.index_dtype,
        stride_lower_bound_incl=0,
        alias_groups=(),
        may_alias_internally=any(f.may_alias_internally for f in found),
        stride_constant=_common([f.stride_constant for f in found]),
    )
    return ListConstraint(weakest, alias_groups=(), elements_may_alias=True)


def _common(rows: Sequence[Sequence[int | None]]) -> tuple[int | None, ...]:
    return tuple(c[0] if len(set(c)) == 1 else None for c in zip(*rows, strict=True))


def leaves(
    names: Sequence[str], annotations: Sequence[Any], args: Sequence[Any]
) -> Iterator[tuple[str, Any]]:
    """Name and value of every argument that is in the IR: tuples item by item, no constants."""
    for name, annotation, arg in zip(names, annotations, args, strict=True):
        if isinstance(arg, tuple):
            items = [f"{name}[{i}]" for i in range(len(arg))]
            yield from leaves(items, _nodes(annotation, len(arg)), arg)
        elif not getattr(annotation, "constant", False):
            yield name, arg


def flattened(arg: Any, memory: Memory, name: str) -> list[torch.Tensor]:
    """A leaf's values in the IR, as int64 or bool or float tensors, its arrays added to memory."""
    if isinstance(arg, torch.Tensor):
        memory.add(name, arg)
        return [torch.tensor(n) for n in _record(arg)]
    if isinstance(arg, list):
        for index, array in enumerate(arg):
            memory.add(f"{name}[{index}]", array)
        records = torch.tensor([_record(array) for array in arg])
        memory.add(name, records)
        return [torch.tensor(records.data_ptr()), torch.tensor(len(arg))]
    return [torch.tensor(arg, dtype=torch.float64 if isinstance(arg, float) else None)]


def _record(array: torch.Tensor) -> tuple[int, ...]:
    """Address of the first element, sizes, strides."""
    return (array.data_ptr(), *array.shape, *array.stride())
