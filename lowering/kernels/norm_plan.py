"""What the plans of the norm kernels share: checks of their arguments, and their samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.launch_plan import KernelLimit, Sample
from tile_backend.lowering.kernels.row_layout import row_tile, row_vector
from tile_backend.lowering.kernels.rows import MAX_PIECES
from tile_backend.lowering.reason import ReasonKind


def check_rows(rows: Mapping[str, torch.Tensor], vectors: Mapping[str, torch.Tensor | None]) -> int:
    """The number of features, after checking that the norm kernels take these tensors."""
    launch_plan.require_float(**rows, **vectors)
    launch_plan.require_same_shape(**rows)
    for name, x in rows.items():
        launch_plan.require_features(x, name)
    width = next(iter(rows.values())).shape[-1]
    limit = MAX_PIECES * row_tile(width).block
    if width > limit:
        raise KernelLimit(
            ReasonKind.SHAPE_LIMIT, f"rows of {width} features; the norm kernels take {limit}"
        )
    return width


def gain_or(
    dummy: torch.Tensor, name: str, vector: torch.Tensor | None, width: int
) -> torch.Tensor:
    """`vector` as [width], or `dummy`, which the kernel does not read: a launch takes no None."""
    return dummy if vector is None else row_vector(name, vector, width)


def norm_samples(
    outputs: Callable[[torch.Tensor, torch.dtype], tuple[torch.Tensor, ...]],
    inputs: tuple[str, ...],
) -> list[Sample]:
    """Every rounding mode, weight dtypes, no weight, an offset, several row lengths and layouts."""
    half = torch.bfloat16
    weights = {"low": half, "float32": torch.float32, "none": None}
    rows: list[tuple[str, tuple[int, ...], str, float, str]] = [
        ("once", (64, 4096), "low", 0.0, "once"),
        ("before_weight", (64, 4096), "low", 0.0, "before_weight"),
        ("scale", (64, 4096), "low", 0.0, "scale"),
        ("every_op", (64, 5120), "low", 1.0, "every_op"),
        ("large", (64, 8192), "low", 0.0, "before_weight"),
        ("offset", (2, 64, 11008), "low", 1.0, "once"),
        ("offset_before_weight", (64, 2048), "low", 1.0, "before_weight"),
        ("float32_weight", (64, 1000), "float32", 0.0, "before_weight"),
        ("weightless", (2, 64, 32, 128), "none", 0.0, "once"),
        ("one_row", (1, 16384), "low", 0.0, "once"),
        ("widest", (4, 32768), "low", 0.0, "once"),
    ]
    samples: list[Sample] = []
    for name, shape, kind, offset, rounding in rows:
        dtype = weights[kind]
        x = torch.empty(shape, dtype=half, device="meta")
        weight = None if dtype is None else torch.empty(shape[-1:], dtype=dtype, device="meta")
        result = half
        if dtype is not None and rounding != "once":
            result = torch.promote_types(half, dtype)
        arguments = {
            **{given: torch.empty_like(x) for given in inputs},
            "weight": weight,
            "eps": 1e-6,
            "offset": offset,
            "rounding": rounding,
        }
        samples.append((name, arguments, outputs(x, result)))
    return samples
