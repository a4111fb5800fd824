"""Transformers models with gradient checkpointing: the same sites, under the same paths.

A layer is a body then. What crosses its border is taken apart (the residual add of one layer and
the norm of the next), everything else is found as without, and masks mean what they meant.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import fx

import tile_backend
from tests.models import named
from tests.models.inputs import padded, training, words
from tests.models.run import REWRITTEN
from tile_backend import inductor, pipeline
from tile_backend.inductor import without_codegen
from tile_backend.lowering import provenance
from tile_backend.options import Options

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = ("llama", "gpt_oss")
NAMES = [
    pytest.param(name, marks=() if name in QUICK else (pytest.mark.full,))
    for name in named.CONFIGURATIONS
]


def model(name: str, use_reentrant: bool | None) -> torch.nn.Module:
    """In training; None: without checkpointing."""
    made = named.build(name).train()
    if use_reentrant is not None:
        made.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    torch._dynamo.reset()
    return made


LAYERS = 2
NORMS = ("rms_norm", "add_rms_norm")


def found(report: tile_backend.Report) -> Counter[tuple[object, ...]]:
    """Sites with path, source line, mask and what runs there; RMS norms by their layer.

    An add and a norm are one site where both are in a layer, in whichever order they are there.
    """
    return Counter(
        ("norm", ".".join(site.module.split(".")[:3]))
        if site.fusion in NORMS
        else (site.fusion, site.status, site.module, site.source, *mask_of(site))
        for site in report.sites
    )


def mask_of(site: tile_backend.Site) -> tuple[object, ...]:
    return site.bindings.get("mask"), site.decision is not None and site.decision.respelled


@pytest.mark.parametrize("name", NAMES)
def test_sites_are_those_of_the_model_without_checkpointing(name: str) -> None:
    plain, *others = (
        tile_backend.explain(made, **training(made))
        for made in (model(name, kind) for kind in (None, False, True))
    )
    for report in others:
        assert found(report) == found(plain)
        # The loss is computed in the model itself.
        assert all(site.module for site in report.sites if "cross_entropy" not in site.fusion)
        across = plain.counts.get("add_rms_norm", 0) - report.counts.get("add_rms_norm", 0)
        assert 0 <= across <= LAYERS


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_causal_mask_is_left_out_of_checkpointed_layers(use_reentrant: bool) -> None:
    made = model("llama", use_reentrant)
    sites = tile_backend.explain(made, **training(made)).sites
    attention = [site for site in sites if site.fusion == "attention"]
    assert [site.module for site in attention] == [f"model.layers.{i}.self_attn" for i in (0, 1)]
    for site in attention:
        assert site.bindings["mask"] == "causal"
        assert site.decision is not None
        assert site.decision.respelled
        assert "is causal" in site.decision.evidence


@pytest.mark.parametrize(
    "dynamic",
    [
        pytest.param(None, id="static"),
        pytest.param(True, id="dynamic", marks=pytest.mark.full),
    ],
)
def test_padding_is_handed_into_checkpointed_layers(dynamic: bool | None) -> None:
    made = model("llama", False)
    with without_codegen():
        compiled = torch.compile(made, backend="tilegym", dynamic=dynamic, options=dict(REWRITTEN))
        compiled(**padded(made), labels=words()).loss.backward()
    report = tile_backend.last_report()
    assert report is not None
    assert len(report.graphs) == 1
    attention = [site for site in report.sites if site.fusion == "attention"]
    assert [site.bindings["mask"] for site in attention] == ["causal+padding"] * 2
    calls = [site.call for site in attention if site.call is not None]
    assert [call.arguments["mask"] for call in calls] == [None, None]
    names = {call.operands["padding"] for call in calls}
    assert names == {"l_kwargs_attention_mask_"}


def test_dynamic_sizes_in_a_body() -> None:
    """Sizes are inputs of the body then."""
    made = model("llama", False)

    def sites(module: fx.GraphModule) -> tuple[tile_backend.Site, ...]:
        return pipeline.analyse(module, Options(kernels="always")).sites

    given = {**padded(made), "labels": words()}
    captured = inductor.capture(made, (), given, sites, dynamic=True).visited
    assert Counter(site.fusion for site in captured if site.status == "fused") == {
        "add_rms_norm": 2,
        "attention": 2,
        "cross_entropy": 1,
        "rms_norm": 3,
        "rotary": 2,
        "silu_mul": 2,
    }
    assert {s.bindings["mask"] for s in captured if s.fusion == "attention"} == {"causal+padding"}


@pytest.mark.parametrize("use_reentrant", [False, pytest.param(True, marks=pytest.mark.full)])
def test_launches_of_the_backward_have_the_path_of_their_layer(
    use_reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is run again in the backward as well: the code names it as that of the forward."""
    paths: dict[bool, Counter[tuple[str, str]]] = {}

    def read(graph: fx.GraphModule, _inputs: object, **settings: object) -> object:
        ours = [n for n in graph.graph.nodes if str(n.target).startswith("tilegym.")]
        paths[bool(settings.get("is_backward"))] = Counter(
            (str(n.target).split(".")[1], provenance.module_path(n.meta)) for n in ours
        )
        assert all(provenance.source_line(n.meta) for n in ours)
        return make_boxed_func(graph.forward)

    monkeypatch.setattr(inductor, "_inner_compile", [read])
    made = model("llama", use_reentrant)
    compiled = torch.compile(made, backend="tilegym", options=dict(REWRITTEN))
    compiled(**training(made)).loss.backward()
    layers = [f"model.layers.{i}" for i in range(LAYERS)]
    sites = [("rotary_qk", f"{layer}.self_attn") for layer in layers]
    sites += [("silu_mul", f"{layer}.mlp") for layer in layers]
    sites += [("rms_norm", f"{layer}.input_layernorm") for layer in layers]
    attention = [f"{layer}.self_attn" for layer in layers]
    forward, again = paths[False], paths[True]
    for site in sites:
        assert forward[site] == again[site] == 1
    for path in attention:
        assert forward["attention_with_lse", path] == again["attention_with_lse", path] == 1
        assert again["attention_grad", path] == 1
