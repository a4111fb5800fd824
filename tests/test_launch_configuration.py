"""Launches as they were measured to be fastest, and as planned where that cannot be."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_compiler import Tileiras
from tests.kernel_compile import OPS, samples_of
from tests.kernel_plans import meta
from tests.stub_driver import Driver
from tests.stub_launches import BF16, launched, norm
from tests.tuning_entries import ARCH, configuration
from tile_backend.lowering import custom_op, launch_configuration, launch_recipe, tuning_store
from tile_backend.lowering.kernels.build_error import BuildError
from tile_backend.lowering.kernels.compiled import Kernel
from tile_backend.lowering.kernels.configuration import Configuration, Named, everything
from tile_backend.lowering.launch_configuration import kind_of_launch
from tile_backend.lowering.launch_recipe import Recipe, describe
from tile_backend.lowering.site_kernels import LaunchSite, prepare
from tile_backend.lowering.tensor_layout import Layout
from tile_backend.registry import known_fusions

DEFAULT = "rows=1,block=2048,warps=8,occupancy=4"
FASTER = "rows=2,block=1024,warps=4,occupancy=8"
ARGUMENTS = {"x": meta(64, 4096), "weight": meta(4096), "eps": 1e-6, "offset": 0.0}
ARGUMENTS["rounding"] = "once"


@pytest.fixture(autouse=True)
def ops(tuning: Path) -> None:
    custom_op.define(known_fusions())


def store(chosen: str, rows: int = 64, width: int = 4096) -> None:
    given = {**ARGUMENTS, "x": meta(rows, width), "weight": meta(width)}
    kind = kind_of_launch("rms_norm", given, (meta(rows, width),))
    assert kind is not None
    assert tuning_store.record(ARCH, [configuration(kind, chosen)])
    launch_recipe.recipe.cache_clear()


def recipe(rows: int = 64) -> Recipe:
    values = (*{**ARGUMENTS, "x": meta(rows, 4096)}.values(), meta(rows, 4096))
    found = launch_recipe.recipe("rms_norm", tuple(ARGUMENTS), describe(values), ARCH)
    assert found is not None
    return found


def test_without_measurements_launches_are_as_planned() -> None:
    planned = recipe()
    store("default")
    assert recipe() == planned
    assert planned.measured is None


def test_a_stored_configuration_is_taken_for_the_sizes_it_was_measured_at() -> None:
    planned, other = recipe(), recipe(128)
    store(FASTER)
    found = recipe()
    assert found.grid == (32, 1, 1)
    assert planned.grid == (64, 1, 1)
    assert found.kernel._hints == {"num_worker_warps": 4, "occupancy": 8}
    assert found.measured == ("rms_norm", ARCH, FASTER)
    assert recipe(100).measured == found.measured
    assert recipe(128) == other


def test_a_configuration_that_the_kernel_has_no_more_is_a_warning() -> None:
    planned = recipe()
    store("rows=1,block=4095,warps=8")
    with pytest.warns(tuning_store.TuningWarning, match=r"no configuration .*block=4095") as seen:
        found = recipe(), recipe(65)
    assert found[0] == planned
    assert len(seen) == 1


def refusing(monkeypatch: pytest.MonkeyPatch, occupancy: int) -> None:
    """A compiler that cannot build kernels of this occupancy."""
    build = Kernel._compiled

    def compiled(self: Kernel, *given: Any) -> bytes:
        if self._hints["occupancy"] == occupancy:
            raise BuildError("the compiler says no")
        return build(self, *given)

    monkeypatch.setattr(Kernel, "_compiled", compiled)


@pytest.mark.stub
def test_a_launch_takes_it(driver: Driver) -> None:
    x = torch.ones(64, 4096, dtype=BF16)
    _, (before,) = launched(driver, lambda: norm(x))
    store(FASTER)
    _, (same,) = launched(driver, lambda: norm(x))
    _, (after,) = launched(driver, lambda: norm(torch.ones(65, 4096, dtype=BF16)))
    assert before.grid == same.grid == (64, 1, 1), "a kind that was launched keeps its plan"
    assert after.grid == (33, 1, 1)


@pytest.mark.stub
def test_a_launch_whose_code_does_not_build_is_as_planned(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(FASTER)
    refusing(monkeypatch, 8)
    x = torch.ones(64, 4096, dtype=BF16)
    with pytest.warns(tuning_store.TuningWarning, match="the compiler says no") as seen:
        found = [launched(driver, lambda: norm(x))[1][0].grid for _ in range(2)]
    assert found == [(64, 1, 1)] * 2
    assert len(seen) == 1
    assert "tune --again" in str(seen[0].message)


def test_a_compile_whose_code_does_not_build_is_as_planned(
    tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(FASTER)
    refusing(monkeypatch, 8)
    values = (*ARGUMENTS.values(), meta(64, 4096))
    laid_out = tuple(Layout.of(v) if isinstance(v, torch.Tensor) else v for v in values)
    site = LaunchSite("rms_norm", tuple(ARGUMENTS), laid_out, ARCH)
    with pytest.warns(tuning_store.TuningWarning, match="the compiler says no"):
        problems = prepare([site])
    assert problems == []
    assert recipe().measured is None
    assert len(tileiras.compiles()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare([site]) == []


def test_of_several_gpus_only_this_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    store(FASTER)
    monkeypatch.setattr(launch_configuration, "gpu_of", lambda _: "Another GPU")
    assert recipe().measured is None
    launch_recipe.recipe.cache_clear()
    monkeypatch.setattr(launch_configuration, "gpu_of", lambda _: "A GPU")
    assert recipe().measured is not None


def configurations(op: str, sample: str, arch: str = ARCH) -> list[Configuration]:
    module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
    arguments, outputs = samples_of(op)[sample]
    return everything(lambda choose: module.plan(arguments, outputs, arch, choose))


@pytest.mark.parametrize("op", OPS)
def test_every_kernel_has_choices_and_each_has_a_name_of_its_own(op: str) -> None:
    module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
    for sample, (arguments, outputs) in samples_of(op).items():
        found = configurations(op, sample)
        assert len(found) > 1, sample
        assert len({str(configuration) for configuration in found}) == len(found)
        planned = module.plan(arguments, outputs, ARCH)
        named = module.plan(arguments, outputs, ARCH, Named(str(found[0])))
        assert (planned.kernel, planned.grid) == (named.kernel, named.grid)
        last = module.plan(arguments, outputs, ARCH, Named(str(found[-1])))
        assert last.kernel._hints == found[-1].hints


def test_the_text_of_a_configuration_names_its_choices() -> None:
    assert str(configurations("rms_norm", "once")[0]) == DEFAULT
    assert str(configurations("silu_mul", "packed")[0]) == "elements=1024"
    assert FASTER in map(str, configurations("rms_norm", "once"))
    first = configurations("attention", "causal")[0]
    assert str(first) == "rows=128,cols=128,latency=2,warps=8"
