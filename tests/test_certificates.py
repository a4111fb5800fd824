"""tilegym.verify="first": what is certified, what leaves no trace, and what cannot be certified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import tile_backend
from tests.json_schema import violations
from tests.models import named
from tests.models.inputs import INPUTS
from tests.norm_program import norm, x_and_more
from tests.trust_program import compiled
from tile_backend.errors import FallbackRefused, InternalFailure, PassFailed
from tile_backend.lowering import certify, memory_bound, trial

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text())


@pytest.fixture(autouse=True)
def trials(graphs_only: None, monkeypatch: pytest.MonkeyPatch) -> list[trial.Trial]:
    """The sites that really run. No certificate of an earlier test is known."""
    ran: list[trial.Trial] = []
    real = trial.trial

    def noted(*given: object) -> trial.Trial:
        ran.append(real(*given))  # type: ignore[arg-type]
        return ran[-1]

    monkeypatch.setattr(trial, "trial", noted)
    monkeypatch.setattr(certify, "known", {})
    return ran


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kernels", ("always", "interpret"))
@pytest.mark.parametrize("call", ("padded", "decode"))
def test_every_site_of_a_model_is_certified(
    call: str, kernels: str, trials: list[trial.Trial]
) -> None:
    """A left-padded mask and a static cache: masks that mean something, read off the program."""
    model = named.build("llama", torch.bfloat16)
    with torch.no_grad():
        found = compiled(model, keywords=INPUTS[call](model), kernels=kernels)
    assert found.verdicts == ["certified"] * 11
    assert len(trials) == 5, "identical layers are certified once"
    assert "\ncertified x11, worst " in found.report.to_text()
    content = json.loads(found.report.to_json())
    assert list(violations(content, SCHEMA, SCHEMA, "report")) == []
    assert {site["certificate"]["verdict"] for site in content["sites"]} == {"certified"}


@pytest.mark.gpu
@pytest.mark.parametrize("train", (False, True))
def test_kernels_on_a_gpu_are_certified(train: bool) -> None:
    model = named.build("llama", torch.bfloat16).cuda().train(train)
    words = INPUTS["padded"](model)
    given = {name: v.cuda() if isinstance(v, Tensor) else v for name, v in words.items()}
    with torch.set_grad_enabled(train):
        found = compiled(model, keywords=given, verify="always", strict="no-fallback")
    assert {str(site.decision) for site in found.report.fused} == {"kernel"}
    assert set(found.verdicts) == {"certified"}


def test_a_respelling_is_certified_with_the_mask_that_it_leaves_out(
    trials: list[trial.Trial],
) -> None:
    model = named.build("llama", torch.float32)
    with torch.no_grad():
        found = compiled(model, keywords=INPUTS["prefill"](model), kernels="auto")
    assert found.verdicts.count("certified") == 2
    assert found.verdicts.count("none") == 9, "what stays as it is needs no certificate"
    (one,) = trials
    assert "le" in {getattr(n.target, "__name__", "") for n in one.site.original.graph.nodes}


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("dynamic", (None, True))
@torch._dynamo.config.patch(specialize_float=True)
def test_training_is_certified_forward_and_backward(
    dtype: torch.dtype, dynamic: bool | None, trials: list[trial.Trial]
) -> None:
    x, other, weight = (t.to(dtype).requires_grad_() for t in x_and_more())

    def program(x: Tensor, weight: Tensor, other: Tensor) -> Tensor:
        return norm(x, weight) * F.silu(other)

    found = compiled(program, x, weight, other, dynamic=dynamic)
    assert found.report.counts == {"rms_norm": 1, "silu_mul": 1}
    assert set(found.verdicts) == {"certified"}
    for site in found.report.fused:
        assert site.certificate is not None
        assert site.certificate.text.endswith("of its budget, forward and backward")
        assert site.certificate.used is not None
        assert 0 < site.certificate.used <= 1
    (norms,) = (one for one in trials if one.site.ops[0].name == "rms_norm")
    assert sorted(norms.names)[:2] == ["gradient of l_weight_", "gradient of l_x_"]


def test_inputs_have_the_layout_that_they_have_at_the_site(trials: list[trial.Trial]) -> None:
    x = torch.randn(4, 32, 6).transpose(1, 2)
    rows = torch.randn(1, 1, 32).expand(4, 6, 32)
    found = compiled(lambda x, y: norm(x, torch.ones(32)) + F.silu(y) * x, x, rows)
    assert set(found.verdicts) == {"certified"}
    strides = {tuple(tensor.stride()) for one in trials for tensor in one.inputs}
    assert x.stride() in strides
    assert rows.stride() in strides


def test_a_checkpointed_layer_and_a_mask_outside_of_it() -> None:
    """The body of the checkpoint is given what the program outside computes its mask from."""

    def attend(q: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    def program(q: Tensor, padding: Tensor) -> Tensor:
        place = torch.arange(q.shape[2])
        mask = (place <= place[:, None])[None, None] & padding[:, None, None, :]
        return checkpoint(attend, q, mask, use_reentrant=False)

    q, padding = torch.randn(2, 2, 9, 8, requires_grad=True), torch.ones(2, 9, dtype=torch.bool)
    found = compiled(program, q, padding)
    assert found.site.bindings["mask"] == "causal+padding"
    assert found.verdicts == ["certified"]


def test_whole_numbers_that_share_memory() -> None:
    """Segments of packed sequences, one row for the whole batch."""

    def program(q: Tensor, segments: Tensor) -> Tensor:
        place = torch.arange(q.shape[2])
        mask = (place <= place[:, None]) & (segments[:, None, :] == segments[:, :, None])
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None])

    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]]).expand(2, -1)
    found = compiled(program, torch.randn(2, 2, 9, 8), segments)
    assert found.site.bindings["mask"] == "causal+segments"
    assert found.verdicts == ["certified"]


def test_autocast_is_as_at_the_site() -> None:
    x, _, weight = x_and_more()

    def program(x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.scaled_dot_product_attention(x, x, x, is_causal=True) * weight

    found = compiled(program, x[:, None], weight)
    assert found.verdicts == ["certified"]


def test_nothing_of_the_program_is_touched() -> None:
    model = torch.nn.Sequential(
        torch.nn.RMSNorm(16), torch.nn.BatchNorm1d(16), torch.nn.RMSNorm(16)
    )
    x = torch.randn(4, 16)
    torch.manual_seed(7)
    expected = torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        compiled(lambda x: model(x).detach(), x)
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_explain_runs_nothing(monkeypatch: pytest.MonkeyPatch, trials: list[trial.Trial]) -> None:
    monkeypatch.setenv("TILEGYM_VERIFY", "always")
    monkeypatch.setenv("TILEGYM_NUMERICS", "bitwise")
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    x, _, weight = x_and_more()
    report = tile_backend.explain(norm, x, weight)
    assert [site.certificate for site in report.fused] == [None]
    assert trials == []


def test_too_large_is_said_and_refused_only_under_no_fallback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_bound, "free", lambda device: 1000)
    x, _, weight = x_and_more()
    found = compiled(norm, x, weight)
    assert found.verdicts == ["not certified"]
    assert found.site.decision is not None
    assert found.site.decision.op_in_graph, "it is rewritten all the same"
    words = (
        r"not certified x1: too large: it would take about 0\.0 GiB, and 0\.0 GiB are free on cpu"
    )
    pytest.MonkeyPatch  # noqa: B018
    assert found.report.to_text().splitlines()[-1].startswith(words.replace("\\", ""))
    with pytest.raises(Exception, match="too large") as caught:
        compiled(norm, x, weight, kernels="interpret", strict="no-fallback")
    assert isinstance(caught.value.inner_exception, FallbackRefused)  # type: ignore[attr-defined]


def test_the_luck_of_one_largest_error_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first inputs are over by a little, the others are not: all count, as one."""
    exact, draws = torch.zeros(1000, dtype=torch.float64), []

    def drawn(_: object) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        draws.append(0)
        theirs, ours = torch.full((1000,), 1e-3), torch.full((1000,), 1e-3)
        ours[0] = 2.1e-3 if len(draws) == 1 else 1e-3
        theirs[0] = 1e-3 if len(draws) == 1 else 1.2e-3
        return [ours], [exact], [theirs]

    monkeypatch.setattr(certify, "compared", drawn)
    monkeypatch.setattr(certify, "of_unusual", lambda trial: "")
    x, _, weight = x_and_more()
    found = compiled(norm, x, weight)
    assert found.verdicts == ["certified"]
    assert len(draws) == certify.DRAWS


def test_the_estimate_counts_both_codes_and_the_oracle() -> None:
    values = [torch.empty(10, dtype=torch.bfloat16), torch.empty(5, dtype=torch.int64)]
    assert memory_bound.needed(values, trains=False) == 2 * (20 + 40) + 80 + 40
    assert memory_bound.needed(values, trains=True) == 2 * memory_bound.needed(values, False)


def test_a_mistake_of_ours_costs_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(trial, "trial", broken)
    x, _, weight = x_and_more()
    found = compiled(norm, x, weight)
    assert found.site.certificate is not None
    assert str(found.site.certificate) == "not certified: ZeroDivisionError: planted"
    assert not [w for w in found.warned if isinstance(w, InternalFailure)]
    with pytest.raises(Exception, match="planted") as caught:
        compiled(norm, x, weight, strict="expect")
    assert isinstance(caught.value.inner_exception, PassFailed)  # type: ignore[attr-defined]


def test_numbers_of_which_nothing_is_known() -> None:
    """A mask that a higher-order op has made: what would be sensible there?"""

    def program(q: Tensor, flag: Tensor, mask: Tensor) -> Tensor:
        made = torch.cond(flag, lambda m: m.clone(), lambda m: ~m, (mask,))
        return F.scaled_dot_product_attention(q, q, q, attn_mask=made)

    q, mask = torch.randn(1, 2, 5, 8), torch.ones(5, 5, dtype=torch.bool).tril()
    found = compiled(program, q, torch.tensor(True), mask)
    assert found.verdicts == ["not certified"]
    assert found.site.certificate is not None
    assert found.site.certificate.text.startswith("nothing is known of the bool values of ")
