"""Peers of the bench of fusions are called as their users call them, or say why they are not."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from bench import fusion_cases, fusion_versions, training_programs
from bench.fusion_cases import Case
from bench.versions import UnavailableError

TINY = Case("rms_norm", "reduced for a CPU", fusion_cases.norm("rms_norm", 4, 16, torch.float32))
LOSS = Case("linear_cross_entropy", "reduced for a CPU", fusion_cases.loss(6, 20, 8, torch.float32))


class Anything:
    """Calls of anything are noted."""

    def __init__(self, called: list[Any], name: str = "") -> None:
        self.called, self.name = called, name

    def __getattr__(self, name: str) -> Any:
        return Anything(self.called, name)

    def __call__(self, *given: Any) -> Any:
        self.called.append((self.name, given))
        return given or Anything(self.called, "returned")


@pytest.mark.parametrize("fusion", fusion_versions.TILEGYM)
def test_tilegyms_functions_get_the_tensors_of_the_program(
    fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    for module in ("tilegym.ops", "tilegym.suites.liger"):
        monkeypatch.setitem(sys.modules, module, Anything(called))
    (case, *_) = (case for case in fusion_cases.cpu_cases() if case.fusion == fusion)
    inputs = case.program.inputs("meta")
    fusion_versions.by_tilegym(case)(*inputs)
    name, given = called[-1]
    assert name
    shapes = [x.shape for x in given if isinstance(x, torch.Tensor)]
    assert shapes == [x.shape for x in inputs]


def test_peers_that_are_not_there_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tilegym.ops", "kernels", "liger_kernel.transformers.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match="TileGym cannot be used: import of tilegym.ops"):
        fusion_versions.by_tilegym(TINY)
    with pytest.raises(UnavailableError, match="liger_kernels cannot be had: import of kernels"):
        fusion_versions.by_hub(TINY)
    with pytest.raises(UnavailableError, match="no kernel of the hub"):
        fusion_versions.by_hub(LOSS)
    with pytest.raises(UnavailableError, match="Liger cannot be used"):
        fusion_versions.by_liger(TINY)


def test_a_kernel_of_the_hub_is_called_as_a_module_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        return training_programs.rms_norm(x, module.weight)

    layers = types.SimpleNamespace(LigerRMSNorm=types.SimpleNamespace(forward=forward))
    asked: list[str] = []

    def get_kernel(repository: str) -> Any:
        asked.append(repository)
        return types.SimpleNamespace(layers=layers)

    monkeypatch.setitem(sys.modules, "kernels", types.SimpleNamespace(get_kernel=get_kernel))
    judge = fusion_versions.judge(TINY, "cpu")
    run = fusion_versions.by_hub(TINY)
    assert judge(fusion_versions.outcome(TINY, run, TINY.inputs("cpu"), []))
    assert asked == ["kernels-community/liger_kernels"]
