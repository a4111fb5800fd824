"""Runs code in float64: the oracle that outputs in float32 and bf16 are measured against.

`module.double()` alone is not float64, because models cast to float32 inside. Under `Float64` every
cast and every `dtype=` argument that names a narrower float names float64 instead; a narrower float
tensor in any result is an error, so a leak cannot pass for an oracle.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

NARROW = frozenset((torch.float32, torch.bfloat16, torch.float16))
NARROW_COMPLEX = frozenset((torch.complex64,))
CASTS = frozenset(("float", "half", "bfloat16"))
READERS = frozenset(("__get__", "__set__"))
"""Attribute access: reading `x.dtype` or `x.grad` makes no value."""


def wide(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        if value in NARROW:
            return torch.float64
        if value in NARROW_COMPLEX:
            return torch.complex128
    return value


class Float64(TorchFunctionMode):
    """Widens every float dtype that code names; refuses narrower results."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in CASTS:
            return args[0].double()
        args, kwargs = pytree.tree_map(wide, (args, dict(kwargs or {})))
        if name == "_grouped_mm":
            return grouped_product(*args, **kwargs)
        result = func(*args, **kwargs)
        if name not in READERS:
            refuse_narrow(name, result)
        return result


def refuse_narrow(name: str, result: Any) -> None:
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, torch.Tensor) and leaf.dtype in NARROW | NARROW_COMPLEX:
            raise AssertionError(f"{name} made a {leaf.dtype} tensor inside the float64 oracle")


def grouped_product(
    rows: torch.Tensor, weights: torch.Tensor, offs: torch.Tensor, **_: Any
) -> torch.Tensor:
    """`torch._grouped_mm`, which does not take float64: one product for each group of rows."""
    bounds = [0, *offs.tolist()]
    groups = zip(bounds, bounds[1:], weights, strict=False)
    return torch.cat([rows[start:end] @ weight for start, end, weight in groups])


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Code inside computes in float64, given float64 parameters and inputs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64():
            yield
    finally:
        torch.set_default_dtype(before)


def widened(value: Any) -> Any:
    """A copy of tensors, a module or nested arguments; floats are float64, complex complex128."""
    if isinstance(value, torch.nn.Module):
        module = copy.deepcopy(value).double()
        for buffer in module.buffers():
            if buffer.is_complex():
                buffer.data = buffer.to(torch.complex128)
        return module

    def leaf(item: Any) -> Any:
        if isinstance(item, torch.Tensor) and item.is_floating_point():
            return item.detach().double().requires_grad_(item.requires_grad)
        if isinstance(item, torch.Tensor) and item.is_complex():
            return item.detach().to(torch.complex128)
        return item

    return pytree.tree_map(leaf, value)
