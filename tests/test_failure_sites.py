"""A failure of ours at one site costs that site: the others are rewritten all the same.

Every step that works on one candidate, or on one node, is made to fail for one of two sites.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch._dynamo.exc import BackendCompilerFailed

import tile_backend
from tests.fake_compiler import Tileiras
from tests.models.check import assert_like_eager
from tests.planted_failures import (
    VICTIM,
    WORDS,
    Planted,
    always,
    at_nodes,
    failing,
    is_victim,
    ops_in,
)
from tile_backend import dump_page, errors, graph_diff, inductor
from tile_backend.lowering import (
    analysis,
    canonical,
    choice,
    custom_op,
    describe,
    failure,
    gate,
    in_place,
    inductor_ir,
    inline,
    kernel_code,
    legality,
    match,
    merge,
    near_miss,
    plan,
    rewrite,
    safe_spelling,
    site_kernels,
)
from tile_backend.lowering.fusion import same_as
from tile_backend.lowering.mask import proof
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site import Decision
from tile_backend.registry import unregister
from tile_backend.rewrite_entry import RewriteEntry

Tensor = torch.Tensor
ALWAYS = {"tilegym.kernels": "always"}
AUTO = {"tilegym.kernels": "auto"}


def program(x: Tensor, weight: Tensor, side: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """The victim, another site, and what is almost a norm."""
    normed = weight * (x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6))
    gated = F.silu(side) * up
    almost = side * torch.rsqrt(side.pow(2).mean(-2, True) + 1e-6)
    return normed, gated, almost


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 32), (32,), (6, 32), (6, 32))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Our ops in each graph that Inductor gets."""
    seen: list[list[str]] = []
    compile_ = inductor.Inductor.compile

    def compiling(self: Any, module: fx.GraphModule, given: Any) -> Any:
        module.graph.lint()
        seen.append(ops_in(module))
        return compile_(self, module, given)

    monkeypatch.setattr(inductor.Inductor, "compile", compiling)
    return seen


@dataclasses.dataclass(frozen=True)
class Place:
    """A function that fails. wanted: in which calls. late: after it has done its work."""

    module: Any
    name: str
    wanted: Callable[..., bool] = is_victim
    late: bool = False

    @property
    def title(self) -> str:
        where = getattr(self.module, "__name__", str(self.module)).rpartition(".")[2]
        return f"{where}.{self.name}{'.late' if self.late else ''}"

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        fails = failing(getattr(self.module, self.name), self.wanted, self.late)
        patch.setattr(self.module, self.name, fails)


ON_A_CPU = (
    Place(plan, "extent"),
    Place(plan, "judged"),
    Place(plan, "fake_call"),
    Place(legality, "call"),
    Place(legality, "structure"),
    Place(legality, "same_results"),
    Place(gate, "decide"),
    Place(describe, "fused"),
    Place(describe, "op_call"),
    Place(describe, "bindings"),
    Place(describe, "written_calls"),
)
PUT_IN = (
    Place(rewrite, "splice"),
    Place(rewrite, "splice", late=True),
    Place(rewrite, "replacement"),
    Place(rewrite, "replacement", late=True),
    Place(rewrite, "bound_operands"),
    Place(rewrite, "annotate", wanted=lambda made, candidate: is_victim(candidate)),
    Place(rewrite, "annotate", wanted=lambda made, candidate: is_victim(candidate), late=True),
)
ON_A_GPU = (
    Place(gate, "weighs"),
    Place(gate, "able"),
    Place(gate, "refused"),
    Place(site_kernels.LaunchSite, "all_of"),
    Place(site_kernels, "needs_at"),
    Place(site_kernels, "recipe"),
    Place(kernel_code.Code, "_asked", wanted=lambda code, compiles: code.kernel.name == VICTIM),
)
"""Of these `gate.weighs` and `able` are asked under "auto" only."""


def title(place: Any) -> str | None:
    return place.title if isinstance(place, Place) else None


def assert_declined(report: tile_backend.Report) -> None:
    """The victim is declined for the planted failure; a norm without its weight is one as well."""
    sites = [s for s in report.having("declined") if s.fusion == VICTIM]
    assert sites
    assert len(sites) == len(report.having("declined"))
    for site in sites:
        assert site.reason is not None
        assert site.reason.kind is ReasonKind.INTERNAL_FAILURE
        assert WORDS in site.reason.text
        assert "report it" in site.reason.fix
        assert site.decision is None


@pytest.mark.parametrize("place", (*ON_A_CPU, *PUT_IN), ids=title)
def test_a_site_that_fails_is_declined_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    with monkeypatch.context() as patch:
        place.plant(patch)
        report = assert_like_eager(program, *inputs(), options=ALWAYS)
    assert graphs == [["silu_mul"]]
    assert report.counts == {"silu_mul": 1}
    assert_declined(report)


@pytest.mark.parametrize("place", (*ON_A_CPU, *PUT_IN), ids=title)
def test_explain_says_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    place.plant(monkeypatch)
    report = tile_backend.explain(program, *inputs())
    assert report.counts == {"silu_mul": 1}
    assert_declined(report)
    assert len(report.having("near-miss")) == 1
    assert WORDS in report.to_text()


@pytest.mark.parametrize("place", ON_A_GPU, ids=title)
def test_so_is_one_whose_kernel_cannot_be_planned_or_made(
    place: Place, tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    monkeypatch.setattr(gate, "device_of", lambda call: torch.device("cuda", 0))
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    monkeypatch.setattr(choice, "answers", everywhere)
    place.plant(monkeypatch)
    options = AUTO if place.name in ("weighs", "able") else ALWAYS
    report = assert_like_eager(program, *inputs(), options=options)
    assert graphs == [["silu_mul"]]
    assert [str(site.decision) for site in report.fused] == ["kernel"]
    assert_declined(report)


def everywhere(some: Any, able: Any, *others: Any) -> Any:
    """Evidence that says kernel."""
    return {root: Decision("kernel", "said") for root in able}


def test_so_is_one_for_which_there_is_no_evidence(
    tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slices, one of which fails: nobody knows what is best there."""
    monkeypatch.setattr(gate, "device_of", lambda call: torch.device("cuda", 0))
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    Place(choice, "answers").plant(monkeypatch)
    report = assert_like_eager(program, *inputs(), options=AUTO)
    assert report.counts == {"silu_mul": 1}
    assert_declined(report)


@dataclasses.dataclass(frozen=True)
class Noted:
    """A failure that no site tells of. counts: of what is rewritten all the same."""

    place: Place
    words: str
    counts: dict[str, int]
    program: Callable[..., Any] = program
    given: Callable[[], list[Tensor]] = inputs


def rotated(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """q and k by the same tables, which are one call, and a gate."""

    def turned(t: Tensor) -> Tensor:
        first, second = t[..., : t.shape[-1] // 2], t[..., t.shape[-1] // 2 :]
        return t * cos + torch.cat((-second, first), -1) * sin

    q, k = turned(x), turned(y)
    return q, k, F.silu(x) * y


def rotary_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 32, generator=generator) for _ in range(4)]


def masked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with a causal mask that the program writes out, and a gate."""
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), F.silu(q) * k


def heads() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 6, 8, generator=generator) for _ in range(3)]


def in_place_program(x: Tensor, weight: Tensor, side: Tensor, up: Tensor) -> Tensor:
    """Arithmetic in place, which is written out, in front of a norm."""
    total = x + side
    total += up
    normed = weight * (total * torch.rsqrt(total.pow(2).mean(-1, True) + 1e-6))
    return normed + F.silu(side) * up


def multihead(q: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """What Dynamo keeps as one node, with attention inside, and a gate."""
    found, _ = F.multi_head_attention_forward(
        *(q, q, q, 8, 2, weight, bias, None, None, False, 0.0, out, bias[:8]),
        training=False,
        need_weights=False,
    )
    return found, F.silu(q) * q


def multihead_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 3, 8), (24, 8), (24,), (8, 8))
    return [torch.randn(shape, generator=generator) for shape in shapes]


BOTH = {"rms_norm": 1, "silu_mul": 1}
GATE = {"silu_mul": 1}
NOTED = (
    Noted(Place(match, "match_of"), "matching rms_norm", GATE),
    Noted(
        Place(canonical.CanonicalGraph, "_known", at_nodes("rsqrt")),
        "naming what is done at `rsqrt`",
        GATE,
    ),
    Noted(
        Place(canonical.CanonicalGraph, "_add", at_nodes("rsqrt")),
        "reading the graph at `rsqrt`",
        GATE,
    ),
    Noted(Place(merge, "together", always), "merging it", {"rotary": 2}, rotated, rotary_inputs),
    Noted(Place(merge, "joined", always), "merging it", {"rotary": 2}, rotated, rotary_inputs),
    Noted(
        Place(proof, "applied", always),
        "reading its mask",
        {"attention": 1, "silu_mul": 1},
        masked,
        heads,
    ),
    Noted(Place(analysis, "divided"), "dividing it into steps", BOTH),
    Noted(Place(near_miss.NearMisses, "look", always), "looking for a near miss", BOTH),
    Noted(Place(near_miss.NearMisses, "best", always), "looking for a near miss", BOTH),
    Noted(Place(near_miss, "anchors", always), "looking for anchors", BOTH),
    Noted(Place(near_miss, "reachable", always), "looking for a near miss", BOTH),
    Noted(Place(describe, "near_miss", always), "describing it", BOTH),
    Noted(Place(describe, "snippet", always), "describing it", BOTH),
    Noted(Place(rewrite, "erase", lambda graph, c: is_victim(c)), "clearing up after it", BOTH),
    Noted(Place(safe_spelling, "respelled", always), "respelling it for Inductor", BOTH),
    Noted(Place(in_place, "written_out", always), "without the write", GATE, in_place_program),
    Noted(Place(in_place, "gives_the_same", always), "without the write", GATE, in_place_program),
    Noted(
        Place(inline, "inlined", always),
        "writing it out",
        GATE,
        multihead,
        multihead_inputs,
    ),
    Noted(
        Place(inline, "composite", always, late=True),
        "writing it out",
        GATE,
        multihead,
        multihead_inputs,
    ),
)


@pytest.mark.parametrize("noted", NOTED, ids=lambda noted: noted.place.title)
def test_a_failure_that_is_no_sites_is_noted(
    noted: Noted, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    with monkeypatch.context() as patch:
        noted.place.plant(patch)
        with torch.no_grad():
            report = assert_like_eager(noted.program, *noted.given(), options=ALWAYS)
    assert {n: c for n, c in report.counts.items() if n in noted.counts} == noted.counts
    assert len(graphs[0]) >= len(noted.counts), "the ops are in the graph"
    texts = [why.text for graph in report.graphs for why in graph.failures]
    assert any(noted.words in text and WORDS in text for text in texts), texts
    assert texts[0] in report.to_text()


def raises(*args: Any, **kwargs: Any) -> Any:
    raise Planted("in the way")


def clamped(x: Tensor, factor: float) -> Tensor:
    return torch.relu(x) * factor


def almost_clamped(x: Tensor, factor: float) -> Tensor:
    return torch.relu(x) + factor


def clamped_program(x: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A fusion of the user's, a gate, and an anchor of the former that nothing comes close to."""
    return torch.relu(x) * 2.0, F.silu(side) * x, torch.relu(side).exp()


OP = tile_backend.Op("clamped", "(Tensor x, float factor) -> Tensor", clamped, same_as("x"))
CLAMPED = tile_backend.Fusion(
    name="clamped",
    summary="relu(x) * c",
    ops=(OP,),
    holes={"x": tile_backend.Tensor("... D"), "factor": tile_backend.Scalar()},
    spellings=(tile_backend.Spelling(clamped),),
    anchors=("relu",),
)
SPELLING = CLAMPED.spellings[0]


def spelled(**changes: Any) -> tile_backend.Fusion:
    spelling = dataclasses.replace(SPELLING, **changes)
    return dataclasses.replace(CLAMPED, spellings=(spelling,))


def with_op(**changes: Any) -> tile_backend.Fusion:
    return dataclasses.replace(CLAMPED, ops=(dataclasses.replace(OP, **changes),))


DECLARATIONS = {
    "limit": dataclasses.replace(CLAMPED, limits=(raises,)),
    "describe": dataclasses.replace(CLAMPED, describe=raises),
    "transform": spelled(transform=raises),
    "finish": spelled(finish=raises),
    "attribute": spelled(attributes={"factor": raises}),
    "outputs": with_op(outputs=raises),
    "schema": with_op(schema="(Tensor x, float factor) -> Nonsense"),
}


@pytest.mark.parametrize("name", DECLARATIONS)
@pytest.mark.parametrize("explains", (True, False), ids=("explain", "compile"))
def test_a_fusion_of_the_users_costs_its_own_sites(
    name: str, explains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of its declaration fails."""
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    monkeypatch.setattr(custom_op, "_records", dict(custom_op._records))
    monkeypatch.setattr(inductor_ir, "_installed", set(inductor_ir._installed))
    x, _, side, _ = inputs()
    tile_backend.register(DECLARATIONS[name])
    try:
        if explains:
            report = tile_backend.explain(clamped_program, x, side)
        else:
            report = assert_like_eager(clamped_program, x, side, options=ALWAYS)
    finally:
        unregister("clamped")
    assert report.counts == {"silu_mul": 1}
    (site,) = report.having("declined")
    assert site.fusion == "clamped"
    assert site.reason is not None
    assert site.reason.kind is ReasonKind.INTERNAL_FAILURE


def test_a_near_miss_that_cannot_be_traced_costs_near_misses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    x, _, side, _ = inputs()
    tile_backend.register(dataclasses.replace(CLAMPED, near_misses=(almost_clamped, raises)))
    try:
        report = tile_backend.explain(clamped_program, x, side)
    finally:
        unregister("clamped")
    assert report.counts == {"clamped": 1, "silu_mul": 1}
    (why,) = report.graphs[0].failures
    assert why.text.startswith("tracing the near misses of clamped failed inside tile-backend")


@pytest.mark.parametrize("strict", ("off", "expect"))
def test_no_strict_mode_but_one_raises_for_a_site(
    strict: str, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    Place(legality, "call").plant(monkeypatch)
    assert_like_eager(program, *inputs(), options={**ALWAYS, "tilegym.strict": strict})
    assert graphs == [["silu_mul"]]


@pytest.mark.parametrize("place", (Place(legality, "call"), Place(match, "match_of")), ids=title)
def test_no_fallback_takes_a_failure_for_a_fallback(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a site, and of what is no site's."""
    place.plant(monkeypatch)
    options = {"tilegym.kernels": "auto", "tilegym.strict": "no-fallback"}
    with pytest.raises(BackendCompilerFailed) as caught:
        assert_like_eager(program, *inputs(), options=options)
    assert isinstance(caught.value.inner_exception, errors.FallbackRefused)
    assert WORDS in str(caught.value.inner_exception)


MEANT = (
    torch._dynamo.exc.SkipFrame("not ours"),
    torch._dynamo.exc.TensorifyScalarRestartAnalysis("not ours"),
    torch._dynamo.exc.UserError(torch._dynamo.exc.UserErrorType.INVALID_INPUT, "not ours"),
    errors.FallbackRefused(count=1, remarks="not ours"),
    errors.CertificateFailed(fusion="", modules="", source="", text="not ours"),
    KeyboardInterrupt("not ours"),
)


@pytest.mark.parametrize("meant", MEANT, ids=lambda meant: type(meant).__name__)
def test_what_is_meant_for_others_passes(meant: BaseException) -> None:
    def interrupts() -> None:
        raise meant

    with pytest.raises(type(meant), match="not ours"):
        failure.tried("checking it", None, interrupts)
    with pytest.raises(type(meant), match="not ours"):
        failure.instead(None, "checking it", None, interrupts)


def test_a_frame_that_is_skipped_from_within_is_skipped(
    monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    def skips(*args: Any) -> Any:
        raise torch._dynamo.exc.SkipFrame("not ours")

    monkeypatch.setattr(legality, "call", skips)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.compile(program, backend="tilegym")(*inputs())
    assert graphs == []
    assert all(map(torch.equal, found, program(*inputs())))


def test_the_traceback_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "tile_backend"):
        reason = failure.tried("checking it", None, raises)
    assert isinstance(reason, Reason)
    assert reason.text == "checking it failed inside tile-backend: Planted: in the way"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "def raises" not in record.message


def test_an_entry_of_the_dump_that_fails_costs_that_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = tile_backend.explain(program, *inputs())
    Place(RewriteEntry, "diff").plant(monkeypatch)
    Place(graph_diff, "script").plant(monkeypatch)
    Place(dump_page, "entry_object").plant(monkeypatch)
    report.save(tmp_path)
    texts = {file.parent.name[4:]: file.read_text() for file in tmp_path.rglob("diff.txt")}
    assert "silu" in texts["silu_mul__root"]
    assert WORDS in texts["rms_norm__root"]
    page = (tmp_path / "index.html").read_text()
    assert WORDS in page
    assert "silu_mul__root" in page
    assert WORDS in graph_diff.text(report)
