"""The launches of a walk-through: which kernels, on what, in how many blocks.

Taken from the generated code where there is some, backward included; else from the op's call.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from tile_backend.lowering import composition, dynamic_sizes, meta
from tile_backend.lowering.fusion import Fusion, Shape
from tile_backend.lowering.launch_recipe import Recipe, View, describe, recipe
from tile_backend.lowering.legality import Call
from tile_backend.lowering.site import Site
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.lowering.tensor_layout import Layout


@dataclasses.dataclass(frozen=True)
class Planned:
    """One launch: the kernel, and the values that it gets, tensors on meta."""

    op: str
    recipe: Recipe
    values: tuple[Any, ...]
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.recipe.kernel.name)

    @property
    def function(self) -> Any:
        return self.recipe.kernel._pyfunc

    @property
    def signature(self) -> Any:
        signatures = importlib.import_module("tile_backend.lowering.kernels.signature")
        return signatures.signature_for(self.recipe.kernel, self.recipe.arguments(self.values))


def planned(
    call: Call, written: Sequence[LaunchSite], fusion: Fusion, site: Site, arch: str
) -> tuple[Planned, ...]:
    """The launches of a site, each kernel once, in order. written: those of all of the code.

    Raises what a plan raises.
    """
    ops = {op.name for op in fusion.ops}
    ours = [each for each in written if each.op in ops and site.source in each.place]
    found = [each for one in ours for each in of_code(one)]
    if not found:
        found = [each for launched in call.launched for each in of_call(launched, arch)]
    return tuple({each.name: each for each in reversed(found)}.values())[::-1]


def of_code(site: LaunchSite) -> Iterator[Planned]:
    """A launch as Inductor has laid its tensors out, at the sizes seen at capture."""
    layouts = [value for value in site.values if isinstance(value, Layout)]
    trial = next(iter(dynamic_sizes.trials(layouts, site.environment)))
    values = [v.on_meta(trial) if isinstance(v, Layout) else v for v in site.values]
    yield from of_values(site.op, site.names, values, site.arch)


def of_call(call: Call, arch: str) -> Iterator[Planned]:
    """A launch as the captured graph has it."""
    values = [meta.like(v) for v in (*call.arguments.values(), *call.outputs)]
    yield from of_values(call.op.name, tuple(call.arguments), values, arch)


def of_values(
    name: str, arguments: tuple[str, ...], values: Sequence[Any], arch: str
) -> Iterator[Planned]:
    """The kernels that one call reaches; none where there is nothing to compute."""
    for op, names, given in composition.called(name, arguments, values):
        found = recipe(op, names, describe(given), arch)
        if found is not None:
            yield Planned(op, found, tuple(given), names)


def at_bench(call: Call, shapes: Iterable[Shape], arch: str) -> Iterator[tuple[str, Planned]]:
    """The launches at the sizes that the fusion is measured at, where these say all sizes."""
    present = {n for n, a in call.arguments.items() if isinstance(a, torch.Tensor)}
    for shape in shapes if not call.steps else ():
        if present != set(shape.shapes):
            continue
        arguments = dict(call.arguments)
        for name, size in shape.shapes.items():
            arguments[name] = torch.empty(size, dtype=arguments[name].dtype, device="meta")
        made = call.op.outputs(**arguments)
        outputs = made if isinstance(made, tuple) else (made,)
        values = (*arguments.values(), *outputs)
        for each in of_values(call.op.name, tuple(arguments), values, arch):
            yield shape.name, each


def grid(each: Planned) -> str:
    """`2 x 1 x 1 blocks`."""
    return f"{' x '.join(map(str, each.recipe.grid))} blocks"


def parameters(each: Planned) -> Iterator[tuple[str, str]]:
    """Each parameter of the kernel with what it gets."""
    named = inspect.signature(each.function).parameters
    absent = {name for name, value in zip(each.names, each.values, strict=False) if value is None}
    for name, given in zip(named, each.recipe.parameters, strict=True):
        if not isinstance(given, View):
            yield name, repr(given)
        else:
            shown = seen(each, given)
            yield name, f"absent: {shown} stands in" if name in absent else shown


def constants(each: Planned) -> str:
    """`num_worker_warps=4 BLOCK=1024`: what a plan decides."""
    named = inspect.signature(each.function).parameters
    pairs = zip(named, each.recipe.parameters, strict=True)
    found = {n: p for n, p in pairs if not isinstance(p, (View, float))}
    hints = dict(each.recipe.kernel._hints)
    return " ".join(f"{name}={given}" for name, given in {**hints, **found}.items())


def seen(each: Planned, view: View) -> str:
    """`x, seen as bfloat16[32, 64]`; a result of the op is `result 0`."""
    count, source = len(each.names), view.source
    name = each.names[source] if source < count else f"result {source - count}"
    kind = f"{str(view.dtype).removeprefix('torch.')}[{', '.join(map(str, view.shape))}]"
    return f"{name}, {kind}" if view.same else f"{name}, seen as {kind}"
