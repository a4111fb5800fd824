"""Options and registry in, analysis out: the part that `explain` and the backend share."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import importlib.metadata
import inspect
from functools import cache

import torch
from torch import fx

from tile_backend import machine, registry
from tile_backend.lowering import analysis, failure, gate, guards, input_names, tuning_store
from tile_backend.lowering import device as gpus
from tile_backend.lowering.choice import Means, settings_of
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.node import shape
from tile_backend.options import Options
from tile_backend.pattern_cache import registry_of
from tile_backend.report import GraphFacts
from tile_backend.source_digest import sources


def analyse(
    module: fx.GraphModule,
    options: Options,
    prefix: str = "",
    compiles: bool = False,
    means: Means | None = None,
) -> analysis.Analysis:
    """Changes nothing but metadata. A fusion that the options leave out is not looked for.

    means: of evidence; by default only what is stored counts.

    prefix: module path of the graph's function, where that is not the compiled callable's own.
    compiles: the kernels that will be launched are compiled, where their store lacks them.
    """
    failure.instead(None, "naming the inputs", None, input_names.note, module, prefix)
    wanted = tuple(
        fusion
        for fusion in registry.known_fusions()
        if options.fusions == "all" or fusion.name in options.fusions
    )
    drops = frozenset(f.name for f in wanted if f.drops and getattr(options, f.drop_option))
    means = means or Means(settings_of(options.mode, {}))

    def allows(fusion: str, path: str) -> bool:
        return options.allows(fusion, joined(prefix, path))

    with guards.none_added(module.graph):
        found = analysis.analyse(
            module, registry_of(wanted), allows, options.kernels, compiles, drops, means
        )
    if not prefix:
        return found
    sites = (dataclasses.replace(s, module=joined(prefix, s.module)) for s in found.sites)
    return dataclasses.replace(found, sites=tuple(sites))


def joined(prefix: str, path: str) -> str:
    """Two module paths as one; either may be ""."""
    return f"{prefix}.{path}".strip(".")


def facts(module: fx.GraphModule, found: analysis.Analysis, break_reason: str) -> GraphFacts:
    """What the report says of the graph as a whole; taken before it is rewritten."""
    tensors = analysis.example_inputs_of(module)
    dtypes = collections.Counter(
        str(t.dtype)[6:] for t in tensors if t.dim() and t.dtype.is_floating_point
    )
    symbols = {str(s) for t in tensors for s in shape(t) if not isinstance(s, int)}
    calls = sum(node.op in ("call_function", "call_method") for node in module.graph.nodes)
    return GraphFacts(
        dtypes=tuple(name for name, _ in dtypes.most_common()),
        symbols=tuple(sorted(symbols)),
        ops=calls,
        break_reason=break_reason,
        anchored=found.anchored,
        unclaimed=found.unclaimed,
        failures=found.failures,
    )


def identity(options: Options) -> str:
    """Differs whenever the code that we put into a graph, or the kernels behind it, may differ."""
    parts = [sources(), options.identity(), torch.__version__]
    parts += [installed(name) for name in ("cuda-tile", "nvidia-cuda-tileiras")]
    parts += [source_of(fusion) for fusion in registry.user_fusions()]
    parts += [tuning_store.identity(arch) for arch in architectures()]
    parts.append(repr(gpus.current()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def architectures() -> list[str]:
    """Of this machine's GPUs, else the one that is assumed."""
    return sorted({gpu.arch for gpu in machine.gpus()}) or [gate.architecture(torch.device("cpu"))]


@cache
def installed(distribution: str) -> str:
    """The version of a distribution, or "missing"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def source_of(fusion: Fusion) -> str:
    """The text of a user's fusion: its declaration, references and spellings."""
    functions = [op.reference for op in fusion.ops]
    functions += [getattr(op.outputs, "outputs", op.outputs) for op in fusion.ops]
    functions += [spelling.function for spelling in fusion.spellings]
    texts = []
    for function in functions:
        try:
            texts.append(inspect.getsource(function))
        except (OSError, TypeError):  # typed into an interpreter: nothing to compare with
            texts.append(repr(function))
    return "\0".join([repr(fusion.name), *texts])
