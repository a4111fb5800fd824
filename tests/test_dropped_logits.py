"""tilegym.drop_logits: a model that returns its logits as well, and what stands in their place."""

from __future__ import annotations

import copy
import operator
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

import tile_backend
from tile_backend.dropped_logits import DroppedLogits
from tile_backend.errors import LogitsDropped
from tile_backend.inductor import without_codegen
from tile_backend.lowering.oracle import float64, within_budget

DROP = {"tilegym.drop_logits": True, "tilegym.kernels": "always"}
"""On a CPU the gate would keep the logits."""
TOLD = "logits that were not computed: with tilegym.drop_logits=True .*drop_logits=False"


def llama(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 97, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))


def step(call: Any, model: torch.nn.Module) -> tuple[Any, list[Any]]:
    """What the model returns, its loss, and the gradient of every parameter."""
    tokens = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(2))
    labels = tokens.masked_fill(tokens > 80, -100)
    returned = call(tokens, labels=labels, num_items_in_batch=torch.tensor(13))
    leaves = list(model.parameters())
    return returned, [returned.loss.detach(), *torch.autograd.grad(returned.loss, leaves)]


def compiled(function: Any, options: Any = None) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, backend="tilegym", options=options)


def report() -> tile_backend.Report:
    found = tile_backend.last_report()
    assert found is not None
    return found


@pytest.mark.parametrize("tied", (True, False), ids=["tied", "untied"])
def test_a_model_trains_without_its_logits(tied: bool) -> None:
    """Twice, the second time from Dynamo's cache; a tied weight gets its gradient from two uses."""
    model = llama(tied)
    with without_codegen():
        ours = compiled(model, DROP)
        found = [step(ours, model) for _ in range(2)]
    assert report().counts["linear_cross_entropy"] == 1
    (site,) = [s for s in report().sites if s.fusion == "linear_cross_entropy"]
    assert site.decision is not None
    assert "what the model returns beside the result is dropped" in site.decision.evidence
    assert site.decision.evidence in report().to_text()
    theirs = step(model, model)[1]
    wide = copy.deepcopy(model).double()
    exact = float64(lambda: step(wide, wide)[1])()
    for returned, results in found:
        assert isinstance(returned.logits, DroppedLogits)
        assert [type(part) for part in returned.to_tuple()[:2]] == [torch.Tensor, DroppedLogits]
        verdict = within_budget(results, exact, theirs)
        assert verdict, str(verdict)


def test_without_the_option_the_report_says_how_to_get_it() -> None:
    model = llama(tied=False)
    with without_codegen():
        returned, _ = step(compiled(model), model)
    assert returned.logits.shape == (2, 9, 97)
    (site,) = [s for s in report().sites if s.fusion == "linear_cross_entropy"]
    assert (site.status, str(site.reason.kind)) == ("declined", "interior_value_escapes")  # type: ignore[union-attr]
    assert "the model also returns the logits" in report().to_text()
    assert "fix: compile with tilegym.drop_logits=True" in report().to_text()
    assert report().counts["cross_entropy"] == 1


def returned_twice(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = F.linear(hidden, weight)
    wide = logits.view(2, 3, -1).float()
    return logits, F.cross_entropy(wide.view(6, -1), labels), wide, hidden + 1


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(*s, generator=generator).to(dtype) for s in ((6, 8), (11, 8)))
    return hidden, weight, torch.randint(11, (6,), generator=generator)


def test_every_place_of_the_logits_is_taken() -> None:
    with without_codegen():
        first, loss, third, last = compiled(returned_twice, DROP)(*inputs())
    expected = returned_twice(*inputs())
    assert isinstance(first, DroppedLogits)
    assert isinstance(third, DroppedLogits)
    assert torch.allclose(loss, expected[1])
    assert torch.equal(last, expected[3])


def test_a_cpu_keeps_the_logits() -> None:
    with without_codegen():
        found = compiled(returned_twice, {"tilegym.drop_logits": True})(*inputs())
    assert all(isinstance(part, torch.Tensor) for part in found)
    assert "left to Inductor; and what the model returns beside the result is kept" in (
        report().to_text()
    )


@pytest.mark.parametrize(("name", "warned"), (("drop_outputs", True), ("splice", False)))
def test_a_failure_keeps_the_logits(
    name: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph, or the site, goes to Inductor as it came, with all that it returns."""

    def fail(*_: Any) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(f"tile_backend.lowering.rewrite.{name}", fail)
    with without_codegen(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", tile_backend.errors.InternalFailure)
        found = compiled(returned_twice, DROP)(*inputs())
    said = [w for w in caught if issubclass(w.category, tile_backend.errors.InternalFailure)]
    assert len(said) == warned
    for ours, theirs in zip(found, returned_twice(*inputs()), strict=True):
        assert torch.equal(ours, theirs)


USES: dict[str, Callable[[Any], Any]] = {
    "shape": lambda x: x.shape,
    "argmax": lambda x: x.argmax(-1),
    "add": lambda x: x + 1,
    "from the right": lambda x: 1 - x,
    "a tensor": lambda x: torch.ones(2) @ x,
    "compare": lambda x: x == 1,
    "index": operator.itemgetter(0),
    "len": len,
    "iterate": list,
    "truth": bool,
    "number": float,
    "function": lambda x: F.softmax(x, -1),
    "list": lambda x: torch.stack([x]),
    "numpy": np.asarray,
    "ufunc": lambda x: np.ones(2) + x,
}


@pytest.mark.parametrize("name", USES)
def test_a_use_says_what_to_do(name: str) -> None:
    with pytest.raises(LogitsDropped, match=TOLD):
        USES[name](DroppedLogits())


def test_it_can_be_carried_around() -> None:
    dropped = DroppedLogits()
    assert repr(dropped) == "DroppedLogits(not computed: tilegym.drop_logits=True)"
    assert dropped.detach() is dropped
    assert not hasattr(dropped, "dtype"), "how libraries ask whether something is a tensor"
    for same in (copy.deepcopy(dropped), pickle.loads(pickle.dumps(dropped))):
        assert isinstance(same, DroppedLogits)
    output = CausalLMOutput(loss=torch.tensor(1.0), logits=dropped)  # type: ignore[arg-type]
    assert output.logits is output["logits"] is output[1] is dropped
    assert {dropped: 1}[dropped] == 1
