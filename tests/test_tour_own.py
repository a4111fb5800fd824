"""The walk-through of a user's own module: which site, what is missing, and that nothing stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import tile_backend
from tile_backend import tour_examples
from tile_backend.errors import AlreadyCompiled, FileNotSaved, NoSuchSite, UnknownWalkthrough
from tile_backend.lowering import launch_place
from tile_backend.lowering.fusion import Fusion, Op, Spelling, same_as
from tile_backend.lowering.fusion import Tensor as Hole
from tile_backend.patterns import all_fusions
from tile_backend.registry import unregister


class Norm(nn.Module):
    """Almost RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6))


class Block(nn.Module):
    """A near miss, a declined site and a fused one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)[None, None]
        a = F.scaled_dot_product_attention(h, h, h, dropout_p=0.1)[0, 0]
        gate, up = torch.cat((a, x), -1).chunk(2, -1)
        return F.silu(gate) * up


def tour(**kwargs: Any) -> tile_backend.tour.Walkthrough:
    with torch.no_grad():
        return tile_backend.walkthrough(Block(), torch.randn(4, 16), **kwargs)


def test_a_fused_site_is_shown_and_the_others_are_named() -> None:
    found = tour()
    assert found.site is not None
    assert found.site.fusion == "silu_mul"
    assert [site.fusion for site in found.others] == ["rms_norm", "attention"]
    closing = found.to_text().rsplit("Other sites of this graph\n", 1)[1]
    assert "rms_norm@norm  near miss  test_tour_own.py:" in closing
    assert "epsilon is added after the root. fix: add it to the mean of squares" in closing


@pytest.mark.parametrize("wanted", ["rms_norm", "norm", "rms_*@norm"])
def test_a_near_miss_is_explained(wanted: str) -> None:
    found = tour(site=wanted)
    names = [stage.name for stage in found.stages]
    assert names == ["source", "dynamo", "terms", "match", "end"]
    match = found.stage("match")
    assert "epsilon is added after the root" in match.says
    assert "To have it fused: add it to the mean of squares." in match.says
    form, wanted_term, actual, where = match.artefacts
    assert form.text.startswith("def eps_outside_root(")
    assert (
        wanted_term.text
        == "mul(<weight>, mul(<x>, recip(add(sqrt(mean(square(<x>), [-1])), <eps>))))"
    )
    assert "recip(add(sqrt(mean(square(l_x_), [-1])), 1e-06))" in actual.text
    assert "return self.weight * (x / " in where.text
    assert 'backend="inductor"' in found.stage("end").says


def test_a_declined_site_says_which_check_said_no() -> None:
    found = tour(site="attention")
    checks = found.stage("plan").artefacts[0].text
    assert checks == "has the form an op?  no: attention with dropout has no kernel yet"
    assert "set attention_dropout to 0 or call model.eval()" in found.stage("plan").says
    assert found.stages[-1].name == "end"


def test_a_site_that_the_options_exclude() -> None:
    with tile_backend.fusions(disable="silu_mul"):
        found = tour(site="attention")
    assert [site.fusion for site in found.others] == ["rms_norm"]


def test_an_unknown_site_names_those_that_are_there() -> None:
    with pytest.raises(NoSuchSite) as caught:
        tour(site="softmax")
    assert str(caught.value).startswith("no site of Block matches 'softmax'.")
    assert "rms_norm@norm, attention, silu_mul" in str(caught.value)


def test_a_near_miss_of_which_a_part_is_there() -> None:
    def gate(x: Tensor) -> Tensor:
        hidden = x.float()
        scale = torch.rsqrt(hidden.pow(2).sum(-1, keepdim=True) + 1e-6)
        return (hidden * scale).to(x.dtype)

    found = tile_backend.walkthrough(gate, torch.randn(4, 16))
    match = found.stage("match")
    assert "None." in match.says
    assert "rsqrt/add/mean" in match.artefacts[0].text


def test_a_module_without_any_anchor_says_so() -> None:
    found = tile_backend.walkthrough(nn.Linear(4, 4), torch.randn(2, 4))
    assert found.site is None
    assert str(found).startswith("Linear: nothing is found\n")
    match = found.stage("match")
    assert "none of the anchors below occurs" in match.says
    anchors = match.artefacts[0].text
    assert all(anchor in anchors for fusion in all_fusions() for anchor in fusion.anchors)
    assert "linear  =  linear(" in found.stage("terms").artefacts[0].text


def test_a_function_of_which_dynamo_makes_no_graph() -> None:
    def speaks(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x.relu()

    found = tile_backend.walkthrough(speaks, torch.randn(2))
    assert [stage.name for stage in found.stages] == ["dynamo"]
    assert "Dynamo made no graph of it" in found.stages[0].says
    assert found.stopped in str(found)


def test_a_graph_that_ends_early_says_so() -> None:
    def ends(x: Tensor) -> Tensor:
        y = torch.softmax(x, -1)
        torch._dynamo.graph_break()
        return y.relu()

    found = tile_backend.walkthrough(ends, torch.randn(2, 8))
    assert found.stopped
    assert f"The graph is not all of the function: {found.stopped}" in found.to_text()
    assert found.stages[-1].name == "run"


def test_dynamic_sizes_are_shown_by_name() -> None:
    x = torch.randn(6, 32)
    torch._dynamo.mark_dynamic(x, 0)
    with torch.no_grad():
        found = tile_backend.walkthrough(lambda x: torch.softmax(x, -1), x)
    (line,) = (
        row for row in found.stage("dynamo").artefacts[0].text.split("\n") if row.startswith(">")
    )
    assert "float32[s" in line
    assert found.stages[-1].missing == ""


class Rooted(nn.Module):
    """A number of the module becomes an input of the graph where everything is dynamic."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def test_a_module_that_has_been_captured_at_other_sizes() -> None:
    module = Rooted()
    with torch.no_grad():
        for rows in (4, 7):
            module.eps *= 10
            found = tile_backend.walkthrough(module, torch.randn(rows, 16))
    assert "float32[s" in found.stage("dynamo").artefacts[0].text
    assert "_tg.rms_norm(" in found.stage("code").artefacts[0].text
    assert [stage.name for stage in found.stages if stage.missing] == []


def test_a_site_inside_a_checkpointed_layer() -> None:
    def layer(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    def model(x: Tensor) -> Tensor:
        return checkpoint(layer, x.exp(), use_reentrant=False).sum()

    found = tile_backend.walkthrough(model, torch.randn(4, 16, requires_grad=True))
    graph = found.stage("dynamo").artefacts[0]
    assert graph.title == "the graph of the body that holds it"
    assert "> silu = silu(gate)" in graph.text
    put_in = found.stage("rewrite").artefacts[0].text
    assert "+silu_mul_default = tilegym.silu_mul.default(" in put_in
    assert "_tg.silu_mul" in found.stage("code").artefacts[0].text


def test_a_compiled_module_is_looked_through_with_a_warning() -> None:
    with pytest.warns(AlreadyCompiled, match="Block is already compiled"), torch.no_grad():
        found = tile_backend.walkthrough(torch.compile(Block()), torch.randn(4, 16))
    assert found.site is not None


def test_nothing_of_it_stays() -> None:
    module, x = Block(), torch.randn(4, 16)
    before, last = torch.random.get_rng_state(), tile_backend.last_report()
    launching = launch_place.launches_on(torch.device("cpu"))
    tags = torch.compiler.config.cache_key_tag
    with torch.no_grad():
        tile_backend.walkthrough(module, x)
    assert torch.equal(before, torch.random.get_rng_state())
    assert tile_backend.last_report() == last
    assert launch_place.launches_on(torch.device("cpu")) == launching
    assert torch.compiler.config.cache_key_tag == tags
    entries = torch._dynamo.eval_frame._debug_get_cache_entry_list(Block.forward.__code__)
    assert list(entries) == []


# --- by name --------------------------------------------------------------------------------------


@pytest.fixture
def doubled() -> Iterator[Fusion]:
    """A user's fusion that has no kernel."""

    def twice(x: Tensor) -> Tensor:
        return x.relu() * 2.0

    fusion = Fusion(
        name="twice_relu",
        summary="2 * relu(x)",
        ops=(Op("twice_relu", "(Tensor x) -> Tensor", twice, same_as("x")),),
        holes={"x": Hole("... D")},
        spellings=(Spelling(twice),),
        anchors=("relu",),
    )
    tile_backend.register(fusion)
    yield fusion
    unregister(fusion.name)


def test_a_user_s_fusion_is_toured_as_its_first_spelling(doubled: Fusion) -> None:
    example = tour_examples.example(doubled.name)
    found = tile_backend.walkthrough(example.module, *example.inputs)
    assert found.site is not None
    assert found.site.fusion == "twice_relu"
    assert "return x.relu() * 2.0" in found.stage("source").artefacts[0].text
    assert "no cuTile kernel is written for twice_relu" in found.stage("kernel").missing
    assert "torch.ops.tilegym.twice_relu" in found.stage("aten").artefacts[0].text
    assert "no cuTile kernel is written for twice_relu" in found.stage("run").missing


@pytest.mark.parametrize("fusion", all_fusions(), ids=lambda fusion: fusion.name)
def test_any_fusion_can_be_toured_as_its_first_spelling(fusion: Fusion) -> None:
    torch._dynamo.reset()  # which remembers the sizes of the fusion before
    module, inputs = tour_examples.spelled(fusion)
    with torch.no_grad():
        report = tile_backend.explain(module, *inputs)
    assert report.counts.get(fusion.name) == 1


def test_an_unknown_name_says_which_is_nearest() -> None:
    with pytest.raises(UnknownWalkthrough) as caught:
        tour_examples.example("rms_nrom")
    assert str(caught.value).startswith(
        "unknown walk-through 'rms_nrom': the nearest is 'rms_norm'."
    )
    assert "Known are add_rms_norm, attention," in str(caught.value)


def test_a_file_that_cannot_be_written(tmp_path: Any) -> None:
    found = tile_backend.walkthrough(nn.Linear(4, 4), torch.randn(2, 4))
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(FileNotSaved, match=r"cannot write '.*page.html': File exists"):
        found.save(occupied / "page.html")
