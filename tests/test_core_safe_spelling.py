"""What Inductor's own attention patterns misread comes out right, through real Inductor.

pytorch#195320: the patterns compare no constants, so that `q @ k.permute(0, 2, 3, 1)` is taken for
`q @ k.transpose(-1, -2)`, and a softmax over the queries for one over the keys, when the sizes
allow it. These are the only tests of the core that generate code.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx

import tile_backend
from tests.core_graph import capture, clone
from tile_backend.lowering import safe_spelling
from tile_backend.lowering.node import value

Tensor = torch.Tensor
BATCH, HEADS, LENGTH, WIDTH = 2, 8, 8, 16


def inputs() -> dict[str, Tensor]:
    """[batch, length, heads, width], as many positions as heads: a mix-up has a shape."""
    generator = torch.Generator().manual_seed(0)
    names = ("q", "k", "v")
    return {n: torch.randn(BATCH, LENGTH, HEADS, WIDTH, generator=generator) for n in names}


def attended(q: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    scores = q.permute(0, 2, 1, 3) @ keys
    return F.softmax(scores * WIDTH**-0.5, dim=-1) @ v.permute(0, 2, 1, 3)


def permuted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attended(q, k.permute(0, 2, 3, 1), v)


def moved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attended(q, torch.movedim(k, 1, -1), v)


def copied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attended(q, k.permute(dims=(0, 2, 3, 1)).contiguous(), v)


def harmless(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attended(q, k.transpose(1, 2).transpose(-1, -2), v)


PROGRAMS = [permuted, moved, copied]


@pytest.mark.parametrize("program", [permuted, moved])
def test_inductor_reads_it_right(program: Callable[..., Tensor]) -> None:
    torch._dynamo.reset()
    given = inputs()
    ours = torch.compile(program, backend="tilegym")(**given)
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"attention": 1}
    torch.testing.assert_close(ours, program(**given))


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_is_respelled_and_nothing_else_changes(program: Callable[..., Tensor]) -> None:
    captured = capture(program, inputs())
    module = captured.module
    expected = module(*map(clone, captured.inputs))
    assert safe_spelling.respell(module.graph) == 1
    module.recompile()
    module.graph.lint()
    (result,), (before,) = module(*captured.inputs), expected
    assert torch.equal(result, before)
    assert result.stride() == before.stride()
    turned = [n.args[1:] for n in module.graph.nodes if n.target == "transpose"]
    assert turned[-1] == (-2, -1), "the key, whose weights then need not be hidden"
    for node in module.graph.nodes:
        if node.op.startswith("call_"):
            assert node.meta.get("stack_trace"), node
            assert same_metadata(node), node


def same_metadata(node: fx.Node) -> bool:
    """The recorded fake value is what the node computes from its recorded operands."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    known = value(node)
    with known.fake_mode:
        if node.op == "call_method":
            made = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            made = node.target(*args, **kwargs)
    return bool(made.shape == known.shape and made.stride() == known.stride())


# --- what no respelling of the key cures ----------------------------------------------------------


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).div(2.5)


def heads_before_batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    return scores_of(q, k).softmax(-1) @ v


def three_orders(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.permute(2, 0, 1, 3), k.permute(0, 2, 1, 3), v.permute(3, 1, 0, 2)
    return scores_of(q, k).softmax(-1) @ v


def softmax_over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(scores_of(q, k), dim=-2) @ v


def softmax_over_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scores_of(q, k).softmax(1) @ v


def written_out_over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = scores_of(q, k)
    raised = (scores - scores.amax(-2, keepdim=True)).exp()
    return (raised / raised.sum(-2, keepdim=True)) @ v


def another_fill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    visible = torch.ones(8, 8, dtype=torch.bool).tril()
    return torch.where(visible, scores_of(q, k), torch.full((), 3.0)).softmax(-1) @ v


def cube() -> dict[str, Tensor]:
    """Every dimension is 8: nothing is told apart by its size."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(8, 8, 8, 8, generator=generator) for name in ("q", "k", "v")}


HIDDEN = [
    heads_before_batch,
    three_orders,
    softmax_over_queries,
    softmax_over_heads,
    written_out_over_queries,
    another_fill,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", HIDDEN)
def test_weights_are_hidden_from_the_patterns(program: Callable[..., Tensor]) -> None:
    torch._dynamo.reset()
    given = cube()
    expected = program(**given)
    torch.testing.assert_close(torch.compile(program, backend="tilegym")(**given), expected)


@pytest.mark.parametrize("program", HIDDEN)
def test_hidden_weights_are_the_same_weights(program: Callable[..., Tensor]) -> None:
    captured = capture(program, cube())
    module = captured.module
    (expected,) = module(*captured.inputs)
    assert safe_spelling.respell(module.graph) == 1
    module.recompile()
    (result,) = module(*captured.inputs)
    assert torch.equal(result, expected)
    assert result.stride() == expected.stride()


# --- what the patterns read right -----------------------------------------------------------------


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    hidden = torch.ones(8, 8, dtype=torch.bool).triu(1)
    return F.softmax((q @ k.mT * 0.3).masked_fill(hidden, float("-inf")), dim=-1) @ v


def added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.ones(8, 8).tril()
    return F.dropout(((q * 0.5) @ k.transpose(-2, -1) + bias).softmax(-1), 0.0) @ v


@pytest.mark.parametrize("program", [harmless, masked, added])
def test_what_inductor_reads_right_is_left_alone(program: Callable[..., Tensor]) -> None:
    captured = capture(program, inputs() if program is harmless else cube())
    before = str(captured.module.graph)
    assert safe_spelling.respell(captured.module.graph) == 0
    assert str(captured.module.graph) == before
