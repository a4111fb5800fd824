"""The digest of a kernel's source: what is inlined into it, and nothing else."""

from __future__ import annotations

from typing import Any

import cuda.tile as ct

from tests.small_kernels import doubled, helper
from tile_backend.lowering.kernels import kernel_source


def alone(x: ct.Array) -> None:
    ct.store(x, (0,), ct.load(x, (1,), (4,)))


def test_a_kernel_is_what_is_inlined_into_it() -> None:
    found = kernel_source.parts(doubled)
    there = doubled.__module__
    assert set(found) == {f"{there}.doubled", f"{there}.helper", f"{there}.DOUBLE"}
    assert found[f"{there}.DOUBLE"] == "2.0"
    assert "return tile * DOUBLE" in found[f"{there}.helper"]
    assert set(kernel_source.parts(alone)) == {f"{__name__}.alone"}


def outer(scale: float) -> Any:
    def inner(tile: Any) -> Any:
        return [helper(piece) * scale * kernel_source.LANGUAGE for piece in tile]

    return inner


def test_source_follows_closures_inner_functions_and_modules() -> None:
    found = kernel_source.parts(outer(0.5))
    assert found[f"{__name__}.scale"] == "0.5"
    assert found["tile_backend.lowering.kernels.kernel_source.LANGUAGE"] == "'cuda'"
    assert f"{helper.__module__}.helper" in found
    assert kernel_source.digest(outer(0.5)) != kernel_source.digest(outer(0.25))
    assert kernel_source.digest(outer(0.5)) == kernel_source.digest(outer(0.5))


def test_an_object_in_a_kernel_does_not_change_the_key_with_its_address() -> None:
    def uses() -> Any:
        marker = object()

        def function() -> Any:
            return marker

        return function

    assert kernel_source.digest(uses()) == kernel_source.digest(uses())


def test_a_plan_is_no_part_of_the_kernel() -> None:
    from tile_backend.lowering.kernels import attention

    found = kernel_source.parts(attention.attention)
    loop = "tile_backend.lowering.kernels.attention_loop"
    assert f"{loop}.fold_in" in found, "called by the kernel"
    assert f"{loop}.power" in found, "called by what it calls"
    assert found[f"{loop}.ZERO"] == "<PaddingMode.ZERO: 'zero'>"
    assert not [name for name in found if "plan" in name or "tiles." in name]
