"""The float64 oracle: a function run as if float32, and everything narrower, were float64.

`module.double()` and float64 inputs are not enough, because code casts: Transformers' norms call
`.to(torch.float32)` whatever comes in. Under this mode casts and `dtype=` arguments to narrower
floats mean float64, and a result that is narrower all the same is an error. See also budget.py.
"""

from __future__ import annotations

import collections
import copy
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from tile_backend.lowering import custom_op
from tile_backend.lowering.budget import Verdict, within_budget

__all__ = ["Float64", "Verdict", "float64", "widened", "within_budget"]

WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
CASTS: Mapping[Any, Callable[..., torch.Tensor]] = {
    torch.Tensor.float: torch.Tensor.double,
    torch.Tensor.half: torch.Tensor.double,
    torch.Tensor.bfloat16: torch.Tensor.double,
}
GROUPED_PRODUCT = "_grouped_mm"
"""What `F.grouped_mm` calls: it has no float64."""


class Float64(TorchFunctionMode):
    """`with Float64(): ...`. Raises AssertionError where a float narrower than float64 appears.

    The default dtype is float64 inside. Inputs are the caller's to widen, see `widened`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._defaults: list[torch.dtype] = []

    def __enter__(self) -> Float64:
        self._defaults.append(torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        torch.set_default_dtype(self._defaults.pop())

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = pytree.tree_map_only(torch.dtype, _wide, (args, dict(kwargs or {})))
        if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            func = self._reference_of(func) or func
        if getattr(func, "__name__", "") == GROUPED_PRODUCT:
            func = _grouped_product
        result = CASTS.get(func, func)(*args, **kwargs)
        for value in pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.dtype in WIDE:
                name = torch.overrides.resolve_name(func) or repr(func)
                raise AssertionError(
                    f"the float64 oracle is not exact: {name} gave {value.dtype}; widen the inputs"
                    " and parameters (oracle.widened, module.double()) before running it"
                )
        return result

    def _reference_of(self, op: Any) -> Callable[..., Any] | None:
        """Ours compute in float32 where no mode looks: their reference instead, under the mode."""
        namespace, name = str(op).split(".")[:2]
        if namespace != custom_op.NAMESPACE:
            return None
        record = custom_op.record(name)

        def exact(*args: Any, **kwargs: Any) -> Any:
            with self:
                return record.op.reference(**record.signature.bind(args, kwargs))

        return exact


def float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under the oracle mode, with its tensor arguments widened."""

    @functools.wraps(function)
    def exact(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = widened((args, kwargs))
        with Float64():
            return function(*args, **kwargs)

    return exact


def widened(tree: Any) -> Any:
    """The same tree with floating and complex tensors in float64 and complex128.

    Differentiable: gradients of a widened tensor reach the original. A module is a copy of its own,
    made outside the oracle mode, which does not let its narrow tensors pass.
    """
    shared = collections.Counter(map(_memory, filter(_is_plain, pytree.tree_leaves(tree))))
    made: dict[Any, torch.Tensor] = {}

    def leaf(value: Any) -> Any:
        if _is_plain(value) and shared[_memory(value)] > 1:
            return _shared(value, made)
        if isinstance(value, torch.Tensor):
            return value.to(_wide(value.dtype))
        return _widened_module(value) if isinstance(value, torch.nn.Module) else value

    return pytree.tree_map(leaf, tree)


def _is_plain(value: Any) -> bool:
    """A narrow tensor with memory of its own and no gradient: a view of it may be written to."""
    plain = type(value) is torch.Tensor and value.layout is torch.strided
    return plain and value.dtype in WIDE and not value.requires_grad and not value.is_meta


def _memory(value: torch.Tensor) -> Any:
    return value.untyped_storage()._cdata, value.dtype


def _shared(value: torch.Tensor, made: dict[Any, torch.Tensor]) -> torch.Tensor:
    """The same view of one wide copy of all the memory that several tensors share."""
    key = _memory(value)
    if key not in made:
        everything = torch.empty(0, dtype=value.dtype, device=value.device)
        made[key] = everything.set_(value.untyped_storage()).to(_wide(value.dtype))
    return made[key].as_strided(value.shape, value.stride(), value.storage_offset())


def _widened_module(module: torch.nn.Module) -> torch.nn.Module:
    """A copy; `Module.double` leaves complex buffers as they are."""
    wide = copy.deepcopy(module).double()
    for buffer in wide.buffers():
        if buffer.is_complex():
            buffer.data = buffer.to(torch.complex128)
    return wide


def _grouped_product(
    rows: torch.Tensor,
    weights: torch.Tensor,
    offs: torch.Tensor,
    bias: None = None,
    out_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """rows [N, K], weights [G, K, M]: group i ends before row offs[i]. torch has no bias there."""
    groups = zip(itertools.pairwise([0, *offs.tolist()]), weights, strict=True)
    return torch.cat([rows[start:end] @ weight for (start, end), weight in groups])


def _wide(dtype: torch.dtype) -> torch.dtype:
    return WIDE.get(dtype, dtype)
