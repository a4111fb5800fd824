"""What the compile caches are told: every option and fusion that can change code, nothing else."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tile_backend import inductor, pipeline
from tile_backend.lowering import joint_graph
from tile_backend.options import Options, option_infos
from tile_backend.registry import unregister

Tensor = torch.Tensor
OTHER: dict[str, Any] = {
    "fusions": ("rms_norm",),
    "include": (("*", ("layers.0",)),),
    "exclude": (("rms_norm", ("layers.0",)),),
    "kernels": "always",
    "strict": "expect",
    "expect": (("rms_norm", 1),),
    "verify": "first",
    "numerics": "bitwise",
    "report_dir": "elsewhere",
    "remarks": "fused",
    "tune": "on",
    "drop_logits": True,
}
"""For each option a value that is not its default."""


@pytest.mark.parametrize("name", option_infos())
def test_exactly_the_options_that_affect_code_change_the_identity(name: str) -> None:
    changed = dataclasses.replace(Options(), **{name: OTHER[name]})
    assert getattr(changed, name) != getattr(Options(), name)
    differs = pipeline.identity(changed) != pipeline.identity(Options())
    assert differs == option_infos()[name].affects_code
    quiet = ("strict", "expect", "report_dir", "remarks")
    assert differs == (name not in quiet)


def double(x: Tensor) -> Tensor:
    return torch.relu(x) * 2.0


def triple(x: Tensor) -> Tensor:
    return torch.relu(x) * 3.0


def like(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def declared(function: Any) -> tile_backend.Fusion:
    op = tile_backend.Op("relu_scaled", "(Tensor x) -> Tensor", function, like)
    return tile_backend.Fusion(
        name="relu_scaled",
        summary="relu(x) * c",
        ops=(op,),
        holes={"x": tile_backend.Tensor("... D")},
        spellings=(tile_backend.Spelling(function),),
    )


@pytest.fixture
def registered() -> Iterator[None]:
    yield
    unregister("relu_scaled")


@pytest.mark.usefixtures("registered")
def test_a_registered_fusion_is_part_of_the_identity() -> None:
    without = pipeline.identity(Options())
    tile_backend.register(declared(double))
    first = pipeline.identity(Options())
    tile_backend.register(declared(triple))
    second = pipeline.identity(Options())
    assert len({without, first, second}) == 3
    tile_backend.register(declared(double))
    assert pipeline.identity(Options()) == first


def test_unregistering_restores_it() -> None:
    before = pipeline.identity(Options())
    tile_backend.register(declared(double))
    unregister("relu_scaled")
    assert pipeline.identity(Options()) == before


def test_torch_and_the_kernel_compiler_are_part_of_the_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = pipeline.identity(Options())
    monkeypatch.setattr(pipeline, "installed", lambda name: "0.0")
    assert pipeline.identity(Options()) != before
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert pipeline.identity(Options()) != before


def test_passes_carry_the_identity_and_no_state_besides() -> None:
    """Inductor pickles the pass, or asks for its uuid, for both of its cache keys."""
    for kind in (inductor.Identity, joint_graph.JointGraphPass):
        one, other = kind("a"), kind("b")
        assert one.uuid() == kind("a").uuid() != other.uuid()
        assert pickle.dumps(one) == pickle.dumps(kind("a")) != pickle.dumps(other)


def test_the_backend_hands_over_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    compile_ = inductor.Inductor.compile

    def compiling(self: Any, module: Any, inputs: Any) -> Any:
        seen.append(dict(self.passes))
        return compile_(self, module, inputs)

    monkeypatch.setattr(inductor.Inductor, "compile", compiling)

    def gate(x: Tensor, y: Tensor) -> Tensor:
        return F.silu(x) * y

    pair = torch.randn(4, 8), torch.randn(4, 8)
    with inductor.without_codegen():
        for kernels in ("always", "never"):
            torch._dynamo.reset()
            options = {"tilegym.kernels": kernels}
            torch.compile(gate, backend="tilegym", options=options)(*pair)
    rewritten, untouched = seen
    identity = pipeline.identity(Options(kernels="always"))
    assert rewritten
    for one in rewritten.values():
        assert identity in str(one.uuid())
    assert not untouched, "a graph that is as it came shares Inductor's own cache entries"
