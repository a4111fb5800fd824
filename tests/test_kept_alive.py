"""Nothing of a compile outlives it: what a caller drops is freed, as with backend="inductor".

Held against weak references to the inputs, to the caller's other variables, to the model, its
parameters and the compiled callable; and by counting what a compile is made of: graphs, nodes, fake
tensors, tracebacks.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import itertools
import types
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import tile_backend
from tests.models.run import inductor_without_codegen
from tests.norm_program import norm
from tile_backend import ReasonKind, pipeline
from tile_backend.errors import InternalFailure
from tile_backend.lowering import alone, choice, describe
from tile_backend.lowering.real_tensors import CannotRun

pytestmark = pytest.mark.filterwarnings("ignore")
ALWAYS = {"tilegym.kernels": "always"}


class Other:
    """Any object that the caller has beside what it hands over."""


class Layer(nn.Module):
    """A norm, attention with a causal mask, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))
        self.qkv, self.gate, self.up = (nn.Linear(32, n, bias=False) for n in (96, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(norm(x, self.weight)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + attended.transpose(1, 2).flatten(2)
        return x + F.silu(self.gate(x)) * self.up(x)


def function_of(model: nn.Module) -> Callable[..., Any]:
    """What is a function to torch.compile, and reads the model."""

    def program(x: Tensor) -> Tensor:
        result: Tensor = model(x) + 1
        return result

    return program


WAYS: Mapping[str, Callable[[], tuple[nn.Module, Callable[..., Any]]]] = {
    "a module": lambda: (model := Layer(), model),
    "a function": lambda: (model := Layer(), function_of(model)),
    "a module of torch's": lambda: (model := nn.Linear(32, 32), model),
    "a method": lambda: (model := Layer(), model.forward),
    "a norm": lambda: (model := nn.RMSNorm(32), function_of(model)),
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "by default": {},
    "with ops": ALWAYS,
    "verified": {**ALWAYS, "tilegym.verify": "first"},
    "checked": {**ALWAYS, "tilegym.verify": "always"},
    "bit for bit": {**ALWAYS, "tilegym.numerics": "bitwise"},
    "interpreted": {"tilegym.kernels": "interpret"},
    "strict": {**ALWAYS, "tilegym.strict": "no-fallback"},
    "expected": {"tilegym.expect": {"layer_norm": 1}},
}
RAISES = ("strict", "expected")


def matrix(*chosen: tuple[str, Any]) -> list[Any]:
    """Every setting with both values; all but the chosen pairs are for `make test-full`."""
    return [
        pytest.param(*pair, marks=() if pair in chosen else (pytest.mark.full,))
        for pair in itertools.product(SETTINGS, (False, True))
    ]


def alive(seen: Mapping[str, weakref.ref[Any]]) -> list[str]:
    gc.collect()
    return [name for name, reference in seen.items() if reference() is not None]


def step(compiled: Callable[..., Any], x: Tensor, training: bool) -> None:
    if training:
        compiled(x).square().mean().backward()
    else:
        with torch.no_grad():
            compiled(x)


def left_by(
    way: str, options: Mapping[str, Any], training: bool, raises: bool = False
) -> tuple[list[str], list[str]]:
    """What is alive after the inputs are dropped, and after all of it is.

    The frame in which the compile was called has not ended when it is asked.
    """
    model, target = WAYS[way]()
    batch, other = torch.randn(2, 8, 32), Other()
    compiled = torch.compile(target, backend="tilegym", options=dict(options))
    handed = {"batch": weakref.ref(batch), "other": weakref.ref(other)}
    handed["memory"] = weakref.ref(batch.untyped_storage())
    lasting: dict[str, weakref.ref[Any]] = {"model": weakref.ref(model)}
    lasting["weight"] = weakref.ref(model.weight)
    lasting["target"] = weakref.ref(target) if way != "a method" else weakref.ref(model)
    lasting["compiled"] = weakref.ref(compiled)
    with contextlib.suppress(Exception) if raises else contextlib.nullcontext():
        step(compiled, batch, training)
    del batch, other
    first = alive(handed)
    del model, target, compiled
    return first, alive(lasting)


ALIKE = ("a module of torch's", "a norm")
"""Ways that are held as another one is."""


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=(pytest.mark.full,) if w in ALIKE else ()) for w in WAYS]
)
def test_what_the_caller_drops_is_freed(way: str, graphs_only: None) -> None:
    assert left_by(way, {}, training=way == "a method") == ([], [])


@pytest.mark.parametrize(
    ("setting", "training"),
    matrix(("checked", True), ("strict", False)),
)
def test_it_is_freed_whatever_is_asked_for(setting: str, training: bool, graphs_only: None) -> None:
    raises = setting in RAISES
    assert left_by("a function", SETTINGS[setting], training, raises) == ([], [])


@pytest.mark.parametrize("training", (False, pytest.param(True, marks=pytest.mark.full)))
def test_a_dump_holds_only_text(training: bool, tmp_path: Path) -> None:
    """With generated code, which the dump receives."""
    torch.compiler.reset()
    options = {**ALWAYS, "tilegym.report_dir": str(tmp_path)}
    assert left_by("a norm", options, training) == ([], [])
    assert "def call" in "".join(f.read_text() for f in tmp_path.glob("graphs/**/*.py"))


def test_explain_holds_nothing() -> None:
    model, x = Layer(), torch.randn(2, 8, 32)
    seen = {"model": weakref.ref(model), "x": weakref.ref(x), "weight": weakref.ref(model.weight)}
    report = tile_backend.explain(model, x)
    del model, x
    assert alive(seen) == []
    assert report.counts["rms_norm"] == 1


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("made to fail")


def test_a_failure_at_a_site_holds_nothing(
    graphs_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe, "bindings", fail)
    assert left_by("a function", {}, training=False) == ([], [])
    report = tile_backend.last_report()
    assert report is not None
    kinds = {site.reason.kind for site in report.sites if site.reason is not None}
    assert ReasonKind.INTERNAL_FAILURE in kinds


def test_a_failure_of_the_whole_pass_holds_nothing(
    graphs_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "facts", fail)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", InternalFailure)
        assert left_by("a function", {}, training=False) == ([], [])
    assert any(isinstance(one.message, InternalFailure) for one in said)


# --- what a compile is made of --------------------------------------------------------------------

KINDS = (fx.Node, fx.Graph, types.TracebackType, FakeTensor, FakeTensorMode, ShapeEnv)
OF_EVERY_COMPILE = 3
"""So many of these kinds are checked where sizes are symbols: torch itself lets go of no
environment of symbols, nor of a few fake tensors in it.
"""


def left_by_a_compile(dynamic: bool, raises: bool = False, **backend: Any) -> Any:
    """Objects of these kinds that are alive when everything is forgotten."""
    torch.compiler.reset()
    compiled = torch.compile(function_of(Layer()), dynamic=dynamic, **backend)
    with contextlib.suppress(Exception) if raises else contextlib.nullcontext():
        step(compiled, torch.randn(2, 8, 32), training=True)
    del compiled
    torch.compiler.reset()
    gc.collect()
    kinds = KINDS[:OF_EVERY_COMPILE] if dynamic else KINDS
    return collections.Counter(t.__name__ for t in map(type, gc.get_objects()) if t in kinds)


@pytest.mark.parametrize(("setting", "dynamic"), matrix(("with ops", True), ("checked", False)))
def test_nothing_of_the_compile_is_left(setting: str, dynamic: bool, graphs_only: None) -> None:
    """No more than another backend leaves: the last context of torch's own lives on.

    Where ours raises, so does the other.
    """
    raises = setting in RAISES
    ours = {"backend": "tilegym", "options": dict(SETTINGS[setting])}
    left_by_a_compile(dynamic, raises, **ours)  # what torch makes once
    other = fail if raises else inductor_without_codegen
    theirs = left_by_a_compile(dynamic, raises, backend=other)
    assert left_by_a_compile(dynamic, raises, **ours) - theirs == {}


# --- what is remembered for all compiles of a process ---------------------------------------------


def test_what_could_not_be_measured_is_remembered_without_its_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, weakref.ref[Any]] = {}

    def entry(*_: Any) -> None:
        local = Other()
        seen["local"] = weakref.ref(local)
        raise CannotRun("it is too large")

    question = object.__new__(choice.Question)
    for name in ("slice", "able", "nesting", "means", "kind", "gpu"):
        object.__setattr__(question, name, None)
    monkeypatch.setattr(choice.Question, "key", "a slice")
    monkeypatch.setattr(choice.Question, "ways", lambda self: None)
    monkeypatch.setattr(choice, "entry", entry)
    monkeypatch.setattr(choice, "measured", {})
    assert str(question.measured(None)) == "it is too large"  # type: ignore[arg-type]
    assert "a slice" in choice.measured
    assert alive(seen) == []


def test_a_function_in_a_remembered_key_is_freed() -> None:
    def opaque(x: Tensor) -> Tensor:
        return x + 1

    def key_of(function: Callable[..., Any]) -> Any:
        graph = fx.Graph()
        graph.output(graph.call_function(function, (graph.placeholder("x"),)))
        return alone.calls(graph)

    seen = {"opaque": weakref.ref(opaque)}
    known = {key_of(opaque): 1}
    assert known[key_of(opaque)] == 1
    del opaque
    assert alive(seen) == []
    assert len(known) == 1
