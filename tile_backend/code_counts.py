"""What the generated code of a program comes to, in numbers that no clock has part in.

The program is captured and compiled up to the code; nothing is built and nothing runs, so tensors
may be as large as the address space. `moved` is the roofline model's traffic: every kernel and
every product reads and writes each of its buffers once.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from tile_backend import inductor, inductor_stages, pipeline, registry
from tile_backend.inductor_stages import Compiled
from tile_backend.lowering import inductor_ir, joint_graph
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.lowering.tensor_layout import Layout
from tile_backend.options import Options

LOOP = re.compile(r"^ +(?:cpp|triton)_\w+(?:\.run)?\(", re.MULTILINE)
PRODUCT = re.compile(r"\bextern_kernels\.\w+\(|\btorch\.ops\.\w+\.\w+\.\w+\(")
NODE = re.compile(r" = torch\.ops\.", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class CodeCounts:
    """Of one graph, forward and, where a gradient is wanted, backward.

    sites: that were fused. launches: of our kernels. bytes: that these read and write, every tensor
    once. loops: kernels that Inductor generates. products: calls of other kernels, matrix products
    mostly. nodes: operations in AOTAutograd's graphs. moved: bytes of everything that runs.
    """

    sites: int
    launches: int
    bytes: int
    loops: int
    products: int
    nodes: int
    moved: int

    @property
    def kernels(self) -> int:
        """All that is called."""
        return self.launches + self.loops + self.products


class NotWholeError(RuntimeError):
    """The program is not one graph, or Inductor failed: there is no code to count."""


Step = Callable[[str, Callable[[], Any]], Any]
"""(name, function) -> what the function returns."""


def called(name: str, function: Callable[[], Any]) -> Any:
    """The step as it is."""
    return function()


def counts(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    kernels: str | None = "always",
    step: Step = called,
) -> CodeCounts:
    """Of function(*args, **kwargs). kernels: of tilegym.kernels; None is Inductor alone.

    With "always" every op is launched as on a GPU, wherever the tensors are. step: calls our
    "passes" and "inductor". Raises NotWholeError.
    """
    visit = functools.partial(counted, kernels, step)
    found = inductor.capture(function, args, kwargs or {}, visit)
    if found.visited is None or found.break_reason:
        raise NotWholeError(f"the graph ended early: {found.break_reason}")
    result: CodeCounts = found.visited
    return result


def counted(kernels: str | None, step: Step, module: fx.GraphModule) -> CodeCounts:
    """Inside a capture: rewrite, compile up to the code, and count."""
    sites = 0
    if kernels is not None:
        options, _ = Options.parse({"tilegym.kernels": kernels}, environ={}, known=registry.names)
        inductor_ir.install(registry.known_fusions())
        sites = step("passes", lambda: rewritten(module, options))
    passes = {"joint_custom_post_pass": joint_graph.JointGraphPass("counters")}
    with inductor_ir.force_direct_launch(), inductor_ir.written_launches() as launches:
        inputs = inductor.captured_inputs()
        parts = step("inductor", lambda: inductor_stages.watched(module, inputs, passes))
    if failures := [part.failure for part in parts if part.failure]:
        raise NotWholeError(f"Inductor: {failures[0]}")
    return CodeCounts(sites, *of_launches(launches), *of_code(parts), sum(p.moved for p in parts))


def rewritten(module: fx.GraphModule, options: Options) -> int:
    """Put the ops in; how many sites there are."""
    found = pipeline.analyse(module, options).apply()
    return sum(site.status == "fused" for site in found.sites)


def of_launches(launches: Sequence[LaunchSite]) -> tuple[int, int]:
    """How many there are, and the bytes that they move."""
    tensors = [v for launch in launches for v in launch.values if isinstance(v, Layout)]
    return len(launches), sum(t.dtype.itemsize * elements(t) for t in tensors)


def elements(layout: Layout) -> int:
    """Of a tensor."""
    product = 1
    for size in layout.shape:
        product *= int(size)
    return product


def of_code(parts: Sequence[Compiled]) -> tuple[int, int, int]:
    """Loops and products that the generated programs call; nodes of AOTAutograd's graphs."""
    codes = [part.code[part.code.index("def call(") :] for part in parts]
    return (
        sum(len(LOOP.findall(code)) for code in codes),
        sum(len(PRODUCT.findall(code)) for code in codes),
        sum(len(NODE.findall(part.aten)) for part in parts),
    )
