"""Compiling small functions with Inductor and reading the code it generated."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import run_and_get_code

from tile_backend.lowering import inductor_ir
from tile_backend.patterns import all_fusions

inductor_ir.install(all_fusions())


def compiled(
    function: Callable[..., Any], *args: Any, direct: bool = True
) -> tuple[Any, list[str]]:
    """What `function` compiled from scratch returns, and the code of each of its graphs.

    direct: launch on CPU buffers as on CUDA ones.
    """
    torch._dynamo.reset()
    return first_call(torch.compile(function), *args, direct=direct)


def first_call(
    compiled_function: Callable[..., Any], *args: Any, direct: bool = True
) -> tuple[Any, list[str]]:
    """The same for a function that torch.compile returned; no cache is read or written."""
    launching = inductor_ir.force_direct_launch() if direct else contextlib.nullcontext()
    # Not force_disable_caches, which also forgets that the C++ compiler has been examined.
    caches = torch._inductor.config.patch(fx_graph_cache=False)
    with launching, caches, torch._functorch.config.patch(enable_autograd_cache=False):
        result, codes = run_and_get_code(compiled_function, *args)
    return result, codes


class _Stop(Exception):
    """Ends a compile when the code is written, before a C++ compiler builds its kernels."""


def code_of(
    function: Callable[..., Any], *args: Any, compiler: Callable[..., Any] = torch.compile
) -> str:
    """The code of the one graph of `function`, launching directly; nothing is built or run."""
    written: list[str] = []

    def write(graph: GraphLowering) -> None:
        wrapper, _ = graph.codegen()
        written.append(wrapper.value)
        raise _Stop

    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GraphLowering, "compile_to_module", write)
        with pytest.raises(Exception, match="_Stop"):
            first_call(compiler(function), *args)
    return written[0]  # a graph of ours that fails is compiled again as it came


def body(code: str) -> list[str]:
    """The lines of the generated `call`, without size assertions and frees."""
    start = code.index("def call(")
    lines = code[start : code.index("return (", start)].splitlines()
    noise = re.compile(r"\s*(assert_size_stride|assert_alignment|del |# buffer )")
    return [line.strip() for line in lines if not noise.match(line)]


def launches(code: str) -> list[str]:
    """The lines that call our launcher."""
    return [line for line in body(code) if "_tg." in line]


def allocations(code: str) -> int:
    """How many buffers the graph allocates."""
    return sum("empty_strided" in line for line in body(code))
