"""What Inductor cannot compile of ours it compiles as it came: same results and one warning."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import fx
from torch._dynamo.exc import BackendCompilerFailed, SkipFrame, UserError, UserErrorType
from torch.utils.checkpoint import checkpoint

import tile_backend
from tests.models.check import copies, outcome
from tests.planted_failures import ALWAYS, Planted, ops_in, twin
from tests.test_core_all_or_nothing import printed
from tile_backend import errors, inductor
from tile_backend.lowering import analysis, autograd, custom_op, joint_graph, oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.reason import ReasonKind

Tensor = torch.Tensor
Function = Callable[..., Any]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6))


def plain(x: Tensor, weight: Tensor, up: Tensor) -> Tensor:
    return F.silu(norm(x, weight)) * up


def checkpointed(x: Tensor, weight: Tensor, up: Tensor) -> Tensor:
    found = checkpoint(plain, x, weight, up, use_reentrant=False)
    assert isinstance(found, Tensor)
    return found + x


@torch.compiler.nested_compile_region
def region(x: Tensor, weight: Tensor, up: Tensor) -> Tensor:
    return plain(x, weight, up)


def nested(x: Tensor, weight: Tensor, up: Tensor) -> Tensor:
    return region(region(x, weight, up), weight, up)


def cast(x: Tensor, weight: Tensor, up: Tensor) -> Tensor:
    """The failure comes while autocast is on."""
    with torch.autocast("cpu", torch.bfloat16):
        product = x @ up.T
        return norm(product, weight[: product.shape[-1]]).float() @ x


def switched(x: Tensor, weight: Tensor, up: Tensor) -> Tensor:
    """The failure comes while grad mode is off."""
    with torch.no_grad():
        scale = norm(x, weight)
    return x * scale * up


def writes(x: Tensor, weight: Tensor, up: Tensor) -> Tensor:
    """An input is written to, and the result is a view of another."""
    total = norm(x, weight)
    up.mul_(2.0)
    return total * up


PROGRAMS = (plain, checkpointed, nested, cast, switched, writes)


def inputs(trains: bool = False, rows: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) for shape in ((rows, 32), (32,), (rows, 32))]
    return [t.requires_grad_(trains and i < 2) for i, t in enumerate(made)]


@contextlib.contextmanager
def compiling(fails: Callable[[fx.GraphModule, bool], Exception | None]) -> Iterator[list[Any]]:
    """In the place of Inductor's compile of one graph: nothing is generated. Lists those graphs.

    fails: (graph, is it a backward) -> what the compile raises.
    """
    seen: list[tuple[str, list[str]]] = []

    def compile_one(module: fx.GraphModule, given: Any, *_: Any, **settings: Any) -> Any:
        backward = bool(settings.get("is_backward"))
        seen.append(("backward" if backward else "forward", ops_in(module)))
        error = fails(module, backward)
        if error is not None:
            for node in module.graph.nodes:  # a pass of Inductor's had begun
                node.meta.clear()
            raise error
        return make_boxed_func(module.forward)

    inductor._inner_compile.append(compile_one)
    try:
        yield seen
    finally:
        inductor._inner_compile.pop()


def with_ops(module: fx.GraphModule, backward: bool) -> Exception | None:
    return Planted("in the way") if ops_in(module) else None


def never(module: fx.GraphModule, backward: bool) -> None: ...


def compared(
    function: Function, given: list[Tensor], caught: list[Any], dynamic: bool | None = None
) -> tile_backend.Report:
    """Assert that our backend computes what eager computes, with one warning; the report."""
    eager = outcome(function, copies(given))
    exact = oracle.float64(lambda *args: outcome(function, args))(*copies(given))
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        compiled = torch.compile(function, backend="tilegym", options=ALWAYS, dynamic=dynamic)
        found = outcome(compiled, copies(given))
    caught += [w.message for w in warned if isinstance(w.message, errors.TileBackendWarning)]
    verdict = within_budget(found, exact, eager)
    assert verdict, verdict
    report = tile_backend.last_report()
    assert report is not None
    return report


def assert_left(report: tile_backend.Report, caught: list[Any]) -> None:
    """Nothing of ours is in the graph, and the report says why."""
    (warned,) = caught
    assert isinstance(warned, errors.CompileFailed)
    assert "Planted: in the way" in str(warned)
    assert "the graph is compiled as it came" in str(warned)
    assert report.fused
    for site in report.fused:
        assert site.decision == "reference"
        assert not site.decision.op_in_graph
        assert site.fallback is not None
        assert site.fallback.kind is ReasonKind.INTERNAL_FAILURE
        assert "Planted: in the way" in site.fallback.text
        assert site.kernels == ()
    assert "left to Inductor" in report.to_text()


CASES = (
    *((function, None, True) for function in PROGRAMS),
    (plain, None, False),
    (plain, True, True),
    (checkpointed, True, False),
)


@pytest.mark.parametrize(("function", "dynamic", "trains"), CASES)
def test_a_graph_that_inductor_refuses_is_compiled_as_it_came(
    function: Function, dynamic: bool | None, trains: bool
) -> None:
    caught: list[Any] = []
    with compiling(with_ops) as seen:
        report = compared(function, inputs(trains), caught, dynamic)
    assert_left(report, caught)
    assert seen[0][1], "Inductor saw our ops"
    assert not any(ops for _, ops in seen[1:]), "and then none"


STAGES = {
    "the fake of an op": (custom_op, "_prepared"),
    "a pass of the joint graph": (joint_graph.JointGraphPass, "__call__"),
    "the choice of a gradient": (autograd.Ways, "chosen"),
    "an identity": (inductor.Identity, "__call__"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("function", (plain, cast, nested), ids=lambda function: function.__name__)
def test_so_is_one_that_fails_earlier(
    function: Function, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While AOTAutograd traces it, where autocast may be on, or in a pass."""
    owner, name = STAGES[stage]
    usual, compile_, handed_over = getattr(owner, name), inductor.Inductor.compile, [False]

    def handing(*args: Any) -> Any:
        handed_over[0] = True
        return compile_(*args)

    def raises(*args: Any, **kwargs: Any) -> Any:
        if handed_over[0]:
            raise Planted("in the way")
        return usual(*args, **kwargs)

    caught: list[Any] = []
    with monkeypatch.context() as patch, compiling(never) as seen:
        patch.setattr(inductor.Inductor, "compile", handing)
        patch.setattr(owner, name, raises)
        report = compared(function, inputs(trains=True), caught)
    assert_left(report, caught)
    assert seen
    assert not any(ops for _, ops in seen)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()


def test_what_is_compiled_then_is_the_graph_of_dynamo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Node by node, bodies included."""
    handed: list[list[str]] = []
    compile_, analyse = inductor.Inductor.compile, analysis.analyse

    def handing(self: Any, module: fx.GraphModule, given: Any) -> Any:
        handed.append(printed(module))
        module.graph.lint()
        return compile_(self, module, given)

    def analysing(module: fx.GraphModule, *others: Any, **named: Any) -> Any:
        handed.append(printed(module))
        return analyse(module, *others, **named)

    monkeypatch.setattr(inductor.Inductor, "compile", handing)
    monkeypatch.setattr(analysis, "analyse", analysing)
    with compiling(with_ops):
        compared(checkpointed, inputs(), [])
    before, rewritten, after = handed
    assert before == after
    assert rewritten != after


def test_sizes_stay_dynamic_and_the_next_call_compiles_nothing() -> None:
    with compiling(with_ops) as seen, warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.CompileFailed)
        torch._dynamo.reset()
        compiled = torch.compile(plain, backend="tilegym", options=ALWAYS, dynamic=True)
        compiled(*inputs())
        known = len(seen)
        for rows in (7, 64):
            given = inputs(rows=rows)
            exact = oracle.float64(plain)(*given)
            assert within_budget([compiled(*given)], [exact], [plain(*given)])
    assert len(seen) == known


def test_the_error_of_the_users_graph_is_the_one_that_is_raised() -> None:
    def fails(module: fx.GraphModule, backward: bool) -> Exception:
        return Planted("ours") if ops_in(module) else ValueError("theirs")

    torch._dynamo.reset()
    with compiling(fails) as seen, warnings.catch_warnings():
        warnings.simplefilter("error", errors.TileBackendWarning)
        with pytest.raises(BackendCompilerFailed, match="theirs") as caught:
            torch.compile(plain, backend="tilegym", options=ALWAYS)(*inputs())
    assert [bool(ops) for _, ops in seen] == [True, False]
    inner = caught.value.inner_exception
    assert isinstance(inner, ValueError)
    assert inner.__cause__ is None
    assert inner.__context__ is None
    assert "ours" not in str(caught.value)


def test_where_nothing_was_changed_nothing_is_tried_again() -> None:
    def fails(module: fx.GraphModule, backward: bool) -> Exception:
        return ValueError("theirs")

    torch._dynamo.reset()
    with compiling(fails) as seen, pytest.raises(BackendCompilerFailed, match="theirs"):
        torch.compile(lambda x: x + 1, backend="tilegym", options=ALWAYS)(torch.ones(3))
    assert len(seen) == 1


def test_a_strict_mode_raises() -> None:
    torch._dynamo.reset()
    options = {"tilegym.strict": "expect", **ALWAYS}
    with compiling(with_ops), pytest.raises(BackendCompilerFailed) as caught:
        torch.compile(plain, backend="tilegym", options=options)(*inputs())
    inner = caught.value.inner_exception
    assert isinstance(inner, errors.PassFailed)
    assert isinstance(inner.__cause__, Planted)


@pytest.mark.parametrize(
    "meant", (SkipFrame("meant"), UserError(UserErrorType.INVALID_INPUT, "meant"))
)
def test_what_torch_means_for_dynamo_passes(meant: Exception) -> None:
    """A frame that is skipped runs as it is; an error of the user's is the user's."""
    torch._dynamo.reset()
    with compiling(lambda module, backward: meant) as seen, warnings.catch_warnings():
        warnings.simplefilter("error", errors.TileBackendWarning)
        compiled = torch.compile(twin(plain), backend="tilegym", options=ALWAYS)
        if isinstance(meant, SkipFrame):
            assert torch.equal(compiled(*inputs()), plain(*inputs()))
        else:
            with pytest.raises(Exception, match="meant"):
                compiled(*inputs())
    assert all(ops for _, ops in seen), "no graph is tried again without them"
