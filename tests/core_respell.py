"""Other ways to write one op of a captured graph, with the same values up to an ulp of float32.

`TABLE` maps the name of an op to functions that give its other ways, see core_ways. Nothing here
changes where a low-precision value is rounded.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from tests import core_ways as ways
from tests import core_ways_layout as layout
from tests.core_ways import Way
from tile_backend.lowering.node import value
from tile_backend.lowering.vocabulary import FUNCTIONS, METHODS

NAMES: dict[Any, str] = {
    METHODS[name]: name
    for name in (
        "mul", "add", "sub", "neg", "pow", "rsqrt", "mean", "float", "to", "transpose", "matmul",
        "softmax", "masked_fill", "where", "repeat_interleave", "sigmoid", "tanh", "flatten", "div",
    )
}  # fmt: skip
NAMES |= {FUNCTIONS[torch.cat]: "cat", FUNCTIONS[F.silu]: "silu", FUNCTIONS[F.gelu]: "gelu"}
NAMES |= {FUNCTIONS[F.layer_norm]: "layer_norm", FUNCTIONS[F.rms_norm]: "rms_norm"}
NAMES |= {FUNCTIONS[F.scaled_dot_product_attention]: "sdpa"}
NAMES |= {FUNCTIONS[operator.getitem]: "getitem", FUNCTIONS[torch.stack]: "stack"}


def name_of(node: fx.Node) -> str:
    """The op's name in the table, "" for any other."""
    known: Any = METHODS if node.op == "call_method" else FUNCTIONS
    if node.op not in ("call_method", "call_function"):
        return ""
    return NAMES.get(known.get(node.target), "")


def respelled(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """Write the node another way, in place; the name of the way, "" where there is none."""
    known = ways_for(node)
    if not known:
        return ""
    name, way = choice.choice(known)
    title = f"{node.name} as {name}"
    try:
        put(graph, node, way)
    except TypeError:  # the call has arguments that this way does not take
        return ""
    return title


def put(graph: fx.Graph, node: fx.Node, way: Way) -> None:
    tracer = fx.proxy.GraphAppendingTracer(graph)
    with graph.inserting_before(node):
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: fx.Proxy(n, tracer))
        made = way(*args, **kwargs)
    for new in graph.nodes:
        if "example_value" not in new.meta and new.op != "output":
            new.meta |= {k: v for k, v in node.meta.items() if k != "example_value"}
    node.replace_all_uses_with(made.node)
    graph.erase_node(node)


def ways_for(node: fx.Node) -> list[tuple[str, Way]]:
    name = name_of(node)
    result = value(node)
    if not name or not isinstance(result, torch.Tensor):
        return []
    try:
        made = TABLE[name](result, *(shown(a) for a in node.args), **node.kwargs)
    except TypeError:  # likewise
        return []
    return [(f"{name}:{index}", way) for index, way in enumerate(made)]


def shown(argument: Any) -> Any:
    """Operands as fake values, for their shapes and dtypes."""
    return fx.node.map_arg(argument, value)


TABLE: dict[str, Callable[..., list[Way]]] = {
    "mul": ways.arithmetic,
    "add": ways.sums,
    "sub": ways.differences,
    "div": ways.quotients,
    "neg": ways.negations,
    "pow": ways.powers,
    "rsqrt": ways.inverse_roots,
    "mean": ways.means,
    "float": ways.casts,
    "to": ways.casts,
    "transpose": layout.swaps,
    "matmul": layout.products,
    "softmax": layout.softmaxes,
    "masked_fill": ways.fills,
    "where": ways.choices,
    "repeat_interleave": layout.repeats,
    "cat": layout.joins,
    "stack": layout.stacks,
    "flatten": layout.flattenings,
    "sigmoid": ways.sigmoids,
    "tanh": ways.hyperbolic,
    "silu": ways.silus,
    "gelu": ways.gelus,
    "getitem": layout.pieces,
    "layer_norm": layout.layer_norms,
    "rms_norm": layout.rms_norms,
    "sdpa": layout.attentions,
}

IDENTITIES: tuple[Way, ...] = (
    lambda x: x.contiguous(),
    lambda x: x.clone(),
    lambda x: x * 1.0,
    lambda x: x.transpose(-1, -2).transpose(-1, -2),
    lambda x: x.unsqueeze(0).squeeze(0),
    lambda x: x[...],
    lambda x: F.dropout(x, 0.5, False),
    lambda x: torch.neg(-x),
)
"""Functions of one tensor of rank 2 or more that change no value."""
