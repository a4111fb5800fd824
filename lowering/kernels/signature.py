"""`signature_for(kernel, args)`: the signature that the launcher would infer, without a GPU.

`KernelSignature.from_kernel_args` asks a CUDA driver; this reads shapes, strides and dtypes, so
that meta tensors are enough to compile a kernel ahead of time or to build its IR for the
interpreter.
`weaken` drops what only multiplies the variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cuda.tile as ct
import torch
from cuda.tile.compilation import (
    ArrayConstraint,
    CallingConvention,
    ConstantConstraint,
    KernelSignature,
    ScalarConstraint,
)

ALIGNMENT = 16
"""Bytes, of base addresses and strides; elements, of sizes: what the launcher looks for."""

DTYPES = {
    torch.float64: ct.float64,
    torch.float32: ct.float32,
    torch.float16: ct.float16,
    torch.bfloat16: ct.bfloat16,
    torch.float8_e4m3fn: ct.float8_e4m3fn,
    torch.float8_e5m2: ct.float8_e5m2,
    torch.float8_e8m0fnu: ct.float8_e8m0fnu,
    torch.int64: ct.int64,
    torch.int32: ct.int32,
    torch.int16: ct.int16,
    torch.int8: ct.int8,
    torch.uint64: ct.uint64,
    torch.uint32: ct.uint32,
    torch.uint16: ct.uint16,
    torch.uint8: ct.uint8,
    torch.bool: ct.bool_,
}


def parameter_annotations(kernel: Any) -> Sequence[Any]:
    """One annotation per parameter, with `.constant` and `.array`; private in cuda-tile 1.7."""
    found: Sequence[Any] = kernel._annotated_function.parameter_annotations
    return found


def signature_for(kernel: Any, args: tuple[Any, ...]) -> Any:
    """KernelSignature of one launch. args: tensors (CPU, CUDA or meta), numbers, constants."""
    annotations = parameter_annotations(kernel)
    constraints = [
        ConstantConstraint(arg) if annotation.constant else constraint_of(arg, annotation.array)
        for arg, annotation in zip(args, annotations, strict=True)
    ]
    return KernelSignature(constraints, CallingConvention.cutile_python_v2())


def constraint_of(arg: torch.Tensor | float, array: Any = None) -> Any:
    """What the launcher assumes of one argument. Raises TypeError for what it would refuse.

    array: the annotation of an array parameter, if it has one.
    """
    if isinstance(arg, torch.Tensor):
        return array_constraint(arg, ct.int32 if array is None else array.index_dtype)
    for kind, dtype in ((bool, ct.bool_), (int, ct.int32), (float, ct.float32)):
        if isinstance(arg, kind):
            return ScalarConstraint(dtype)
    raise TypeError(f"a kernel takes tensors and numbers, not {type(arg).__name__}")


def array_constraint(tensor: torch.Tensor, index_dtype: Any = ct.int32) -> Any:
    """Unit strides, sizes of 1, and divisibility by 16 of address, strides (bytes) and sizes."""
    if tensor.dtype not in DTYPES:
        raise TypeError(f"a kernel cannot read {tensor.dtype}")
    width = tensor.element_size()
    return ArrayConstraint(
        dtype=DTYPES[tensor.dtype],
        ndim=tensor.dim(),
        index_dtype=index_dtype,
        stride_lower_bound_incl=0,
        alias_groups=(),
        may_alias_internally=overlaps(tensor),
        stride_constant=tuple(1 if s == 1 else None for s in tensor.stride()),
        stride_divisible_by=tuple(
            ALIGNMENT // width if s * width % ALIGNMENT == 0 else 1 for s in tensor.stride()
        ),
        shape_constant=tuple(1 if n == 1 else None for n in tensor.shape),
        shape_divisible_by=tuple(ALIGNMENT if n % ALIGNMENT == 0 else 1 for n in tensor.shape),
        base_addr_divisible_by=ALIGNMENT if is_aligned(tensor) else 1,
    )


def is_aligned(tensor: torch.Tensor) -> bool:
    """A meta tensor has no address: allocations are aligned, so its offset decides."""
    if tensor.is_meta:
        return tensor.storage_offset() * tensor.element_size() % ALIGNMENT == 0
    return tensor.data_ptr() % ALIGNMENT == 0


def overlaps(tensor: torch.Tensor) -> bool:
    """Whether two indices may name one element, by the launcher's own (conservative) rule.

    In order of strides, each dimension must step over all of the one before it.
    """
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride < reach:
            return True
        reach = stride * size
    return False


def weaken(signature: Any, kernel: Any) -> Any:
    """The same signature without the facts that multiply variants. Sound: it only assumes less.

    Dropped: sizes of 1, and the divisibility of sizes, except along a unit stride, where it is what
    lets the compiler use 16-byte accesses (without it rms_norm made 8 times as many loads).
    """
    weaker = []
    for constraint, annotation in zip(
        signature.parameters, parameter_annotations(kernel), strict=True
    ):
        if isinstance(constraint, ArrayConstraint):
            asked = annotation.array is not None and annotation.array.static_shape_dims
            constraint = weaker_array(constraint, bool(asked))
        weaker.append(constraint)
    return KernelSignature(weaker, CallingConvention.cutile_python_v2())


def weaker_array(array: Any, annotated: bool) -> Any:
    """`annotated`: the kernel asked for static sizes, so they stay."""
    return ArrayConstraint(
        dtype=array.dtype,
        ndim=array.ndim,
        index_dtype=array.index_dtype,
        stride_lower_bound_incl=0,
        alias_groups=array.alias_groups,
        may_alias_internally=array.may_alias_internally,
        stride_constant=array.stride_constant,
        stride_divisible_by=array.stride_divisible_by,
        shape_constant=array.shape_constant if annotated else None,
        shape_divisible_by=tuple(
            n if stride == 1 else 1
            for n, stride in zip(array.shape_divisible_by, array.stride_constant, strict=True)
        ),
        base_addr_divisible_by=array.base_addr_divisible_by,
    )
