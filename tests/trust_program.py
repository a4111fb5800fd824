"""Compiles a function with `tilegym.verify` or `tilegym.numerics`, and tells all that happened."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

import tile_backend
from tile_backend.errors import TileBackendWarning
from tile_backend.lowering.site import Site

CERTIFIED = {"tilegym.verify": "first", "tilegym.kernels": "always"}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """output: of one call. warned: our warnings."""

    output: Any
    report: tile_backend.Report
    warned: list[TileBackendWarning]

    @property
    def site(self) -> Site:
        """The only one that was fused."""
        (site,) = self.report.fused
        return site

    @property
    def verdicts(self) -> list[str]:
        return [s.certificate.verdict if s.certificate else "none" for s in self.report.fused]


def compiled(
    function: Callable[..., Any],
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    **options: Any,
) -> Compiled:
    """inputs, keywords: what it is called with. options: without their prefix, verify="first" and
    kernels="always" unless given. Where the output has a gradient, its sum is differentiated.
    """
    torch.compiler.reset()
    given = {**CERTIFIED, **{f"tilegym.{name}": value for name, value in options.items()}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = torch.compile(function, backend="tilegym", options=given, dynamic=dynamic)
        output = made(*inputs, **(keywords or {}))
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.sum().backward()
    report = tile_backend.last_report()
    assert report is not None
    ours = [w.message for w in caught if isinstance(w.message, TileBackendWarning)]
    return Compiled(output, report, ours)
