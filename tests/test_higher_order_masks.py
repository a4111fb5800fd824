"""A mask that is computed outside and given to a body: its meaning is used inside.

Where the meaning reads a tensor of the graph outside, the call hands it in. Every call of a body
has to agree; results and gradients are held against eager in each case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch.utils.checkpoint import checkpoint

from tests.models.check import assert_like_eager
from tile_backend import inductor, pipeline
from tile_backend.lowering import analysis, handed_in, rewrite, undo
from tile_backend.lowering.site import Site, TensorSpec
from tile_backend.options import Options

Tensor = torch.Tensor
B, H, S, D = 2, 4, 12, 16


def qkv(queries: int = S) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, H, S, D, generator=generator) for _ in range(3))
    return q[:, :, :queries].requires_grad_(), k.requires_grad_(), v.requires_grad_()


def causal(q: Tensor, k: Tensor, start: Any = 0) -> Tensor:
    """[1, 1, Q, K], bool."""
    rows = torch.arange(q.shape[2])[:, None] + start
    return (torch.arange(k.shape[2])[None, :] <= rows)[None, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q * 1.5, k, v, attn_mask=mask)


def checkpointed(*inputs: Tensor) -> Any:
    return checkpoint(attend, *inputs, use_reentrant=False)


def attentions(program: Callable[..., Any], *inputs: Any) -> list[tuple[object, set[str]]]:
    """Of each attention: what its mask is, and the tensors it reads beside q, k and v.

    After a comparison with eager.
    """
    report = assert_like_eager(program, *inputs)
    assert report.counts.get("attention", 0) == len(report.sites) > 0, report
    return [(site.bindings.get("mask"), operands(site) - {*"qkv"}) for site in report.sites]


def operands(site: Site) -> set[str]:
    """The arguments of the op that are tensors, by name."""
    given = site.call.arguments if site.call is not None else {}
    return {name for name, argument in given.items() if isinstance(argument, TensorSpec)}


def masks(program: Callable[..., Any], *inputs: Any) -> list[object]:
    return [mask for mask, _ in attentions(program, *inputs)]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return checkpointed(q, k, v, causal(q, k))


def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, columns = torch.arange(S)[:, None], torch.arange(S)[None, :]
    return checkpointed(q, k, v, causal(q, k) & (rows - columns < 4))


@pytest.mark.parametrize(("program", "words"), [(plain, "causal"), (windowed, "causal+window(4)")])
def test_numbers_need_no_operand(program: Any, words: str) -> None:
    assert attentions(program, *qkv()) == [(words, set())]


def padded(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    return checkpointed(q, k, v, causal(q, k) & keep[:, None, None, :].bool())


def packed(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
    same = ids[:, None, :, None] == ids[:, None, None, :]
    return checkpointed(q, k, v, causal(q, k) & same)


def placed(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> Tensor:
    return checkpointed(q, k, v, causal(q, k, start[0]))


def keep() -> Tensor:
    kept = torch.ones(B, S, dtype=torch.int64)
    kept[0, :3] = 0
    return kept


HANDED_IN = (
    (padded, (*qkv(), keep()), "causal+padding", "padding"),
    (
        packed,
        (*qkv(), torch.arange(S).div(5, rounding_mode="floor").expand(B, S)),
        "causal+segments",
        "segments",
    ),
    (placed, (*qkv(4), torch.tensor([5, 1])), "causal(l_start_)", "offset"),
)


@pytest.mark.parametrize(("program", "inputs", "words", "name"), HANDED_IN)
def test_tensors_are_handed_in(program: Any, inputs: Any, words: str, name: str) -> None:
    assert attentions(program, *inputs) == [(words, {name})]


def nested(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    mask = causal(q, k) & keep[:, None, None, :].bool()

    def outer(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return checkpoint(attend, q + 1, k, v, mask, use_reentrant=False)

    return checkpoint(outer, q, k, v, mask, use_reentrant=False)


def test_through_two_bodies() -> None:
    assert masks(nested, *qkv(), keep()) == ["causal+padding"]


def twice(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Two layers, each a body of its own."""
    mask = causal(q, k) & keep[:, None, None, :].bool()
    return checkpointed(checkpointed(q, k, v, mask), k, v, mask)


def test_of_every_layer() -> None:
    assert masks(twice, *qkv(), keep()) == ["causal+padding"] * 2


def part_of_the_mask(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Some layers cut the mask that they are given."""

    def cut(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, :, :, : k.shape[2]])

    mask = torch.arange(2 * S)[None, None, None, :] <= torch.arange(S)[None, None, :, None]
    return checkpoint(cut, q, k, v, mask, use_reentrant=False)


def test_the_body_goes_on_with_the_formula() -> None:
    assert masks(part_of_the_mask, *qkv(), keep()) == ["causal"]


def written_later(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Any:
    """What the mask reads is overwritten between the call and the end."""
    keep = keep.clone()
    first = checkpointed(q, k, v, causal(q, k) & keep[:, None, None, :].bool())
    keep[:, -4:] = 0
    return first, checkpointed(q, k, v, causal(q, k) & keep[:, None, None, :].bool())


def mask_written_later(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Any:
    mask = causal(q, k)
    mask[..., 1] = True
    first = checkpointed(q, k, v, mask)
    mask = mask | keep[:, None, None, :].bool()
    mask[..., :4] = True
    return first, checkpointed(q, k, v, mask)


def mask_written_before(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Any:
    mask = causal(q, k)
    mask[..., 0] = False
    mask[..., 0] |= keep[:1, None, :].bool()
    return checkpointed(q, k, v, mask)


@pytest.mark.parametrize("program", [written_later, mask_written_before])
def test_writes(program: Any) -> None:
    assert_like_eager(program, *qkv(), keep())


def test_a_mask_that_is_written_to_is_a_tensor() -> None:
    assert masks(mask_written_later, *qkv(), keep()) == ["tensor", "tensor"]


layer = torch.compiler.nested_compile_region(attend)
"""A body that all calls share."""


def same_masks(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    mask = causal(q, k) & keep[:, None, None, :].bool()
    return layer(layer(q, k, v, mask), k, v, mask)


def equal_masks(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    return layer(layer(q, k, v, causal(q, k)), k, v, causal(q, k))


def other_masks(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    first = layer(q, k, v, causal(q, k) & keep[:, None, None, :].bool())
    return layer(first, k, v, causal(q, k, 2) & keep[:, None, None, :].bool())


def masks_of_other_tensors(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    first = layer(q, k, v, causal(q, k) & keep[:, None, None, :].bool())
    return layer(first, k, v, causal(q, k) & keep.flip(0)[:, None, None, :].bool())


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (same_masks, "causal+padding"),
        (equal_masks, "causal"),
        (other_masks, "tensor"),
        (masks_of_other_tensors, "tensor"),
    ],
)
def test_calls_of_one_body_have_to_agree(program: Any, words: str) -> None:
    assert set(masks(program, *qkv(), keep())) == {words}


def branches(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """One branch reads the mask, the other does not."""
    mask = causal(q, k) & keep[:, None, None, :].bool()
    return torch.cond(
        q.sum() > 0,
        lambda q, k, v, mask: attend(q, k, v, mask),
        lambda q, k, v, mask: q * 1.5 + k * 0 + v * 0,
        (q, k, v, mask),
    )


def test_into_a_branch() -> None:
    q, k, v = (x.detach() for x in qkv())
    assert masks(branches, q, k, v, keep()) == ["causal+padding"]
    assert masks(branches, q - 100, k, v, keep()) == ["causal+padding"]


def texts(module: fx.GraphModule) -> list[str]:
    return [str(part.graph) for part in analysis.bodies(module)]


def test_a_failure_takes_operands_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole pass, all; of a site, those that were added for it."""

    def fails(*_: Any) -> None:
        raise RuntimeError("injected")

    def visit(module: fx.GraphModule) -> tuple[list[str], ...]:
        log, before = undo.Log(module), texts(module)
        log.save(analysis.bodies(module))
        found = pipeline.analyse(module, Options(kernels="always"))
        with pytest.raises(RuntimeError, match="injected"):
            found.apply()
        between = texts(module)
        log.restore()
        return before, between, texts(module)

    def visit_site(module: fx.GraphModule) -> tuple[list[str], ...]:
        before = texts(module)
        found = pipeline.analyse(module, Options(kernels="always")).apply()
        assert [site.status for site in found.sites] == ["declined"]
        return before, texts(module)

    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "drop_outputs", fails)
        before, between, after = inductor.capture(nested, (*qkv(), keep()), {}, visit).visited
    assert ["keep" in text for text in before] == [False, False, True]
    assert "keep" in between[0]
    assert before == after
    monkeypatch.setattr(rewrite, "splice", fails)
    before, after = inductor.capture(nested, (*qkv(), keep()), {}, visit_site).visited
    assert before == after


def test_what_is_handed_in_has_a_name_of_its_own() -> None:
    """The body may have an input that is called as the tensor is outside."""
    outside, body = torch.fx.Graph(), torch.fx.Graph()
    pad = outside.placeholder("pad")
    pad.meta["example_value"] = torch.empty(2)
    inner = body.placeholder("pad")
    result = body.output(inner)
    result.args = ((inner, *(handed_in.new_input(body, pad) for _ in range(2))),)
    assert torch.fx.GraphModule({}, body)(1, 2, 3) == (1, 2, 3)
