"""A planted bad rewrite is named, by `tile_backend.bisect` and by torch's CompilerBisector."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.compiler_bisector import CompilerBisector

import tile_backend
from tests.norm_program import norm
from tile_backend import bisection
from tile_backend.errors import CannotBisect
from tile_backend.inductor import without_codegen
from tile_backend.lowering import reference

EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
OPTIONS = {"tilegym.kernels": "always"}
REWRITES = 2 * len(EPSILONS)
PLANTED = 1.0
"""What is added to a result that is to be wrong."""


class Layer(torch.nn.Module):
    """A norm and a gate. Two rewrites."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = norm(x, self.weight, self.eps)
        return F.silu(normed) * x


@pytest.fixture
def model() -> torch.nn.Module:
    return torch.nn.Sequential(*map(Layer, EPSILONS))


@pytest.fixture(autouse=True)
def graphs_only() -> Iterator[None]:
    with without_codegen():
        yield


X = torch.linspace(-2, 2, 24).view(3, 8)


def wrong_where(monkeypatch: pytest.MonkeyPatch, plant: Any) -> None:
    """The ops that run go wrong where `plant(name, arguments)` says so."""
    run = reference.run

    def planted(op: Any, arguments: Mapping[str, Any]) -> Any:
        results = run(op, arguments)
        return [r + PLANTED for r in results] if plant(op.name, arguments) else results

    monkeypatch.setattr(reference, "run", planted)


def check_of(model: torch.nn.Module) -> Any:
    with torch.no_grad():
        expected = model(X)

    def check(compiled: Any) -> bool:
        with torch.no_grad():
            return bool((compiled(X) - expected).abs().max() < PLANTED / 2)

    return check


@pytest.mark.parametrize("layer", (0, 3, 4))
def test_the_bad_rewrite_is_named(
    layer: int, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_of(model)
    wrong_where(
        monkeypatch,
        lambda op, given: op == "rms_norm" and given["eps"] == EPSILONS[layer],
    )
    found = tile_backend.bisect(model, check, options=OPTIONS)
    assert (found.site.fusion, found.site.module) == ("rms_norm", str(layer))
    assert (found.number, found.rewrites, found.alone) == (2 * layer + 1, REWRITES, True)
    assert found.trials <= 4 + REWRITES.bit_length()
    assert str(found).splitlines() == [
        f"rewrite {2 * layer + 1} of {REWRITES} breaks the check, alone as well:",
        f"  rms_norm  {layer}  {found.site.source}  ({found.site.spelling}: reference)",
        f"  leave it out with options={{\"tilegym.exclude\": {{'rms_norm': ['{layer}']}}}}",
    ]
    exclude = {"tilegym.exclude": {"rms_norm": [str(layer)]}}
    assert check(torch.compile(model, backend="tilegym", options={**OPTIONS, **exclude}))


def test_a_rewrite_that_is_bad_only_beside_others(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, ran = check_of(model), []
    wrong_where(
        monkeypatch,
        lambda op, given: ran.append(op) or ran[-3:] == ["rms_norm", "silu_mul", "rms_norm"],
    )

    def fresh(compiled: Any) -> bool:
        ran.clear()
        return bool(check(compiled))

    found = tile_backend.bisect(model, fresh, options=OPTIONS)
    assert (found.site.module, found.number, found.alone) == ("1", 3, False)
    assert "not alone" in found.to_text()


def test_a_check_may_raise(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = check_of(model)
    wrong_where(monkeypatch, lambda op, given: given.get("eps") == EPSILONS[2])

    def check(compiled: Any) -> bool:
        assert inner(compiled), "different"
        return True

    assert tile_backend.bisect(model, check, options=OPTIONS).site.module == "2"


def test_a_function_without_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(x) * up

    wrong_where(monkeypatch, lambda op, given: True)
    found = tile_backend.bisect(
        attend, lambda compiled: bool(compiled(X, X).lt(4.5).all()), options=OPTIONS
    )
    assert "silu_mul  the function itself  test_bisection.py:" in str(found)
    assert "leave it out with tile_backend.fusions(disable=['silu_mul'])" in str(found)


def test_where_nothing_is_wrong(model: torch.nn.Module) -> None:
    with pytest.raises(CannotBisect, match=f"passes with all {REWRITES} rewrites in place"):
        tile_backend.bisect(model, check_of(model), options=OPTIONS)


def test_where_the_rewrites_are_not_at_fault(model: torch.nn.Module) -> None:
    with pytest.raises(CannotBisect, match="fails without any rewrite, so none of them"):
        tile_backend.bisect(model, lambda compiled: False, options=OPTIONS)


def test_afterwards_everything_is_put_in(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_of(model)
    with monkeypatch.context() as patch:
        wrong_where(patch, lambda op, given: given.get("eps") == EPSILONS[0])
        tile_backend.bisect(model, check, options=OPTIONS)
    assert bisection._trial.get() is None
    compiled = torch.compile(model, backend="tilegym", options=OPTIONS)
    assert check(compiled)
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"rms_norm": len(EPSILONS), "silu_mul": len(EPSILONS)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchs_bisector_names_it_too(
    model: torch.nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    check = check_of(model)
    wrong_where(monkeypatch, lambda op, given: given.get("eps") == EPSILONS[3])

    def works() -> bool:
        torch.compiler.reset()
        backend = CompilerBisector.get_backend() or "eager"
        options = OPTIONS if backend == "tilegym" else None
        backend = backend if backend in ("eager", "tilegym") else "eager"
        return bool(check(torch.compile(model, backend=backend, options=options)))

    result = CompilerBisector.do_bisect(works)
    assert result is not None
    assert (result.backend, result.subsystem, result.bisect_number) == ("tilegym", "rewrites", 6)
    assert result.debug_info is not None
    assert result.debug_info.startswith("rms_norm 3 norm_program.py:")
    assert "Binary search completed for tilegym - rewrites" in capsys.readouterr().out
