"""Configurations are judged by their code: real compiles, and made-up resources."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest

from tests.fake_compiler import FAKE_CUBIN, Tileiras
from tests.kernel_compile import samples_of
from tests.tuning_entries import ARCH, covering
from tile_backend.lowering import cubin_code, cubin_usage, kernel_code, prune
from tile_backend.lowering.cubin_usage import Usage
from tile_backend.lowering.kernels.attention_tiles import AttentionTiles
from tile_backend.lowering.kernels.build_error import BuildError
from tile_backend.lowering.kernels.compiled import Kernel
from tile_backend.lowering.kernels.configuration import Configuration, everything
from tile_backend.lowering.kernels.inspection import Resources
from tile_backend.lowering.kernels.row_layout import RowTile
from tile_backend.lowering.kernels.signature import signature_for
from tile_backend.lowering.prune import Call, Candidate, Pruned, against, planned, pruned

FAMILIES = (
    *(("rms_norm", "once"), ("silu_mul", "packed"), ("rotary", "half"), ("softmax", "router")),
    *(("cross_entropy_rows", "few"), ("attention_join", "decode"), ("attention_split", "decode")),
    pytest.param("attention", "decode", marks=pytest.mark.full),
)
"""Kernels and samples with each kind of configuration; the attention kernels at their smallest."""


def call_of(op: str, sample: str) -> Call:
    arguments, outputs = samples_of(op)[sample]
    return Call(op, tuple(arguments), (*arguments.values(), *outputs), ARCH)


SMALL = call_of("softmax", "wide")


def few(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Of the configurations only the planned one and these."""

    def some(plan: Any) -> list[Configuration]:
        first, *others = everything(plan)
        return [first, *(c for c in others if str(c) in texts)]

    monkeypatch.setattr(prune, "everything", some)


def test_every_configuration_is_kept_or_left_out_with_a_reason() -> None:
    found = pruned(SMALL)
    everywhere = list(map(str, everything(SMALL.recipe)))
    assert not found.unjudged
    assert found.kept[0].text == everywhere[0]
    assert sorted([*(c.text for c in found.kept), *found.left_out]) == sorted(everywhere)
    assert sum(found.left_out_for().values()) == len(found.left_out)
    for candidate in found.kept:
        assert kernel_code.missing([candidate.code], compiles=False) == {}


def test_what_spills_and_what_is_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_of("rms_norm", "once")
    spilling = "rows=2,block=2048,warps=4,occupancy=8"
    same = "rows=1,block=2048,warps=8"
    few(monkeypatch, spilling, same)
    found = pruned(call)
    planned = "rows=1,block=2048,warps=8,occupancy=4"
    assert [candidate.text for candidate in found.kept] == [planned]
    assert found.left_out[same] == f"are the same code as another: {planned}"
    assert found.left_out[spilling].startswith("spill registers: ")


def test_without_the_tool_nothing_is_left_out_for_its_resources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tool(name: str) -> str:
        raise FileNotFoundError(f"{name} is not installed: pip install nvidia-cuda-{name}")

    monkeypatch.setattr(cubin_usage, "tool", tool)
    found = pruned(SMALL)
    assert len(found.kept) == len(everything(SMALL.recipe))
    assert "pip install nvidia-cuda-cuobjdump" in found.unjudged


def failing(monkeypatch: pytest.MonkeyPatch, occupancy: int) -> Pruned:
    def compiled(self: Kernel, *given: Any) -> bytes:
        if self._hints.get("occupancy") == occupancy:
            raise BuildError("the compiler says no")
        return FAKE_CUBIN

    monkeypatch.setattr(Kernel, "_compiled", compiled)
    return pruned(SMALL)


@pytest.mark.usefixtures("tileiras")
def test_what_does_not_compile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "resources_of", lambda _: ({}, "not asked"))
    found = failing(monkeypatch, 8)
    assert set(found.left_out.values()) == {"do not compile: the compiler says no"}
    assert len(found.kept) + len(found.left_out) == len(everything(SMALL.recipe))


@pytest.mark.usefixtures("tileiras")
def test_a_plan_whose_own_choice_does_not_compile_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = failing(monkeypatch, 4)
    assert found.kept == ()
    assert "do not compile" in found.summary()


def test_without_a_compiler_nothing_is_concluded(tileiras: Tileiras) -> None:
    tileiras.remove()
    found = pruned(SMALL)
    assert found.kept == ()
    assert "is not in the kernel store" in found.absent
    assert "pip install" in found.absent


def resources(
    registers: int = 32, local: int = 0, threads: int = 256, blocks: int = 4
) -> Resources:
    return Resources(Usage(registers, local, 0, threads), 1000, blocks, 64)


def candidate(configuration: Configuration) -> Candidate:
    return Candidate(configuration, None, None)  # type: ignore[arg-type]


def test_nobody_is_held_to_more_than_the_plan() -> None:
    rows, product = candidate(RowTile(1, 2048, 8)), candidate(AttentionTiles(64, 64, 2))
    assert against(rows, resources(), resources()) == ""
    assert against(rows, resources(local=8), resources()) == "spill registers: 8 bytes a thread"
    assert against(rows, resources(local=8), resources(local=16)) == ""
    few_warps = resources(blocks=2)
    assert against(rows, few_warps, resources()) == "keep too few warps resident: 16, not 32"
    assert against(rows, few_warps, few_warps) == ""
    assert against(product, few_warps, resources()) == ""
    assert "do not fit a multiprocessor" in against(product, resources(blocks=0), resources())
    unknown = dataclasses.replace(few_warps, blocks=None, most_warps=None)
    assert against(rows, unknown, unknown) == ""


def test_machine_code_is_what_is_left_of_a_cubin_without_notes() -> None:
    image = planned_image(SMALL)
    code = cubin_code.machine_code(image)
    assert 0 < len(code) < len(image)
    assert code in image or b"\0" in code
    assert cubin_code.machine_code(FAKE_CUBIN) == FAKE_CUBIN
    assert cubin_code.machine_code(image[:200]) == image[:200]


def test_a_cubin_says_itself_whether_it_is_whole() -> None:
    image = planned_image(SMALL)
    fake = FAKE_CUBIN.removesuffix(b" of a test\n")
    assert cubin_code.is_whole(image)
    assert cubin_code.is_whole(fake)
    cuts = [image[:length] for length in (*range(0, len(image), 97), len(image) - 1)]
    cuts += [fake[:length] for length in range(len(fake))]
    assert not any(map(cubin_code.is_whole, cuts))
    assert not cubin_code.is_whole(b"MZ" + image[2:])


def planned_image(call: Call) -> bytes:
    first = next(iter(planned(call, {})))
    image: bytes = first.code.kernel.build(first.code).image
    return image


@pytest.mark.parametrize(("op", "sample"), FAMILIES)
def test_every_value_of_every_choice_compiles(op: str, sample: str) -> None:
    call = call_of(op, sample)
    module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
    codes = []
    for configuration in covering(everything(call.recipe)):
        launch = module.plan(*samples_of(op)[sample], ARCH, lambda _, c=configuration: c)
        codes.append(launch.kernel.code(signature_for(launch.kernel, launch.args), ARCH))
    assert len(codes) > 1
    assert kernel_code.missing(codes, compiles=True) == {}
