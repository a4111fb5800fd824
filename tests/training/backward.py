"""The backward graphs that AOTAutograd makes while our backend compiles without code generation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from torch import fx

from tile_backend import inductor


@contextlib.contextmanager
def backward_graphs() -> Iterator[list[fx.GraphModule]]:
    """Inside, `without_codegen` leaves every backward graph in the list."""
    found: list[fx.GraphModule] = []
    compile_fx = inductor.compile_fx.compile_fx

    def spying(module: fx.GraphModule, inputs: Sequence[Any], **settings: Any) -> Any:
        inner = settings.get("inner_compile")

        def keep(graph: fx.GraphModule, inputs: Sequence[Any], **settings: Any) -> Any:
            if settings.get("is_backward") and graph not in found:  # compile_fx calls itself
                found.append(graph)
            assert inner is not None, "use this with without_codegen()"
            return inner(graph, inputs, **settings)

        return compile_fx(module, inputs, **{**settings, "inner_compile": keep})

    with mock.patch.object(inductor.compile_fx, "compile_fx", spying):
        yield found
