"""The walk-through of every fusion: each stage shows what that stage really made."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from tests.test_docs import ROOT
from tile_backend import tour_examples, tour_models
from tile_backend.lowering.signature import declared
from tile_backend.patterns import all_fusions
from tile_backend.tour import Walkthrough, walkthrough

NAMES = [fusion.name for fusion in all_fusions()]
STAGES = [
    *("source", "dynamo", "terms", "match", "plan", "gate", "rewrite"),
    *("aten", "schedule", "code", "kernel", "tile-ir", "resources", "run"),
]


NAMED_AFTER_ANOTHER = {"silu_mul_grad_packed": "silu_mul_grad"}
"""Kernels that are not called as their op is."""


@functools.cache
def tour(name: str, backward: bool = False) -> Walkthrough:
    """On a CPU, so that the words are the same everywhere."""
    example = tour_examples.example(name, backward)
    inputs = (tensor.cpu() for tensor in example.inputs)
    with torch.set_grad_enabled(backward):
        return walkthrough(example.module.cpu(), *inputs, site=name)


def shown(found: Walkthrough, stage: str) -> str:
    """Everything that a stage made."""
    return "\n".join(artefact.text for artefact in found.stage(stage).artefacts)


def test_every_fusion_has_a_module_that_a_person_would_write() -> None:
    assert sorted(tour_models.EXAMPLES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_tour_has_every_stage(name: str) -> None:
    found = tour(name)
    assert [stage.name for stage in found.stages] == STAGES
    assert [stage.name for stage in found.stages if stage.missing] == []
    assert all(stage.says and stage.artefacts for stage in found.stages)
    assert found.site is not None
    assert (found.site.fusion, found.site.status) == (name, "fused")


@pytest.mark.parametrize("name", NAMES)
def test_source_and_graph_mark_the_operations_of_the_site(name: str) -> None:
    found = tour(name)
    assert found.site is not None
    marked = [line for line in shown(found, "source").split("\n") if line.startswith(">")]
    lines = {entry.line for entry in found.site.before}
    assert {int(line.split()[1]) for line in marked} == lines
    graph = [line for line in shown(found, "dynamo").split("\n") if line.startswith(">")]
    assert {line.split()[1] for line in graph} == {entry.name for entry in found.site.before}


@pytest.mark.parametrize("name", NAMES)
def test_terms_spelling_and_checks(name: str) -> None:
    found = tour(name)
    assert found.site is not None
    rows = shown(found, "terms").split("\n")
    names = [row.split()[0] for row in rows[: len(found.site.before)]]
    assert sorted(names) == sorted(entry.name for entry in found.site.before)
    assert f"the spelling {found.site.spelling!r} fits" in found.stage("match").says
    bound = {artefact.title: artefact.text for artefact in found.stage("match").artefacts}
    fusion = next(fusion for fusion in all_fusions() if fusion.name == name)
    holes = re.findall(r"<(\w+)>", bound["what its names stand for here"])
    assert holes
    assert set(holes) <= set(fusion.holes)
    checks = found.stage("plan").artefacts[0].text.split("\n")
    assert len(checks) >= 6
    assert all(line.endswith(" yes") for line in checks)


@pytest.mark.parametrize("name", NAMES)
def test_the_gate_speaks_of_this_machine_and_of_a_gpu(name: str) -> None:
    text = shown(tour(name), "gate")
    assert text.startswith("on this machine's CPU")
    (gpu,) = (line for line in text.split("\n") if line.startswith("on an sm_"))
    assert "estimated: " in gpu
    assert "launch" in gpu
    assert " of Inductor" in gpu


@pytest.mark.parametrize("name", NAMES)
def test_the_op_goes_in_and_is_launched_from_the_generated_code(name: str) -> None:
    found = tour(name)
    assert found.site is not None
    diff = found.stage("rewrite").artefacts[0].text.split("\n")
    removed = [line[1:].split(" = ")[0] for line in diff if line.startswith("-")]
    heavy = [entry.name for entry in found.site.before][-1]
    assert heavy in removed
    (put_in,) = (line for line in diff if line.startswith("+") and "= tilegym." in line)
    op = re.search(r"tilegym\.(\w+)", put_in)[1]  # type: ignore[index]
    assert op in {op.name for fusion in all_fusions() for op in fusion.ops}
    assert f"torch.ops.tilegym.{op}.default(" in shown(found, "aten")
    assert f"_tg.{op}" in shown(found, "schedule")
    code = found.stage("code").artefacts[0]
    (launch,) = (line for line in code.excerpt if f"_tg.{op}(" in line)
    assert "buf" in launch
    assert any(line.strip().startswith(f"# tilegym.{op}  ") for line in code.excerpt)
    assert "assert_size_stride" not in "\n".join(code.excerpt)


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_its_plan_its_ir_and_its_resources(name: str) -> None:
    found = tour(name)
    artefacts = {artefact.title: artefact.text for artefact in found.stage("kernel").artefacts}
    (kernel,) = (title.split()[-1] for title in list(artefacts)[:1])
    source = artefacts[f"the kernel {kernel}"]
    assert source.startswith(f"def {kernel}(")
    files = (ROOT / "lowering" / "kernels").glob("*.py")
    assert any(source in file.read_text() for file in files)
    (plan,) = (
        text
        for title, text in artefacts.items()
        if title.startswith(f"the launch of {kernel} on sm_")
    )
    assert re.match(r"grid +\d+ x \d+ x \d+ blocks\n", plan)
    assert shown(found, "tile-ir").startswith(f"entry @{kernel}")
    row = shown(found, "resources").split("\n")[1].split()
    assert row[0] == kernel
    threads, registers = int(row[1]), int(row[2])
    assert threads % 32 == 0
    assert 0 < registers <= 255


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_at_sizes_of_real_models(name: str) -> None:
    fusion = next(fusion for fusion in all_fusions() if fusion.name == name)
    artefacts = {a.title: a.text.split("\n") for a in tour(name).stage("kernel").artefacts}
    rows = artefacts["the same at sizes of real models"]
    assert all(row.startswith(shape.name) for row, shape in zip(rows, fusion.bench, strict=True))
    assert all(re.search(r" \d+ x \d+ x \d+ blocks  ", row) for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_op_is_compared_with_float64_and_not_timed(name: str) -> None:
    found = tour(name)
    error, time = found.stage("run").artefacts
    assert "output 0 ok: max error " in error.text
    assert "allowed" in error.text
    if not torch.cuda.is_available():
        assert time.text == "not measured: no GPU"


@pytest.mark.parametrize("name", ["silu_mul", "attention", "linear_cross_entropy"])
def test_with_gradients_there_is_a_backward(name: str) -> None:
    found = tour(name, backward=True)
    parts = [artefact.title for artefact in found.stage("aten").artefacts]
    assert parts == ["forward, in ATen", "backward, in ATen"]
    forward, backward = (artefact.text for artefact in found.stage("code").artefacts)
    fusion = next(fusion for fusion in all_fusions() if fusion.name == name)
    gradient = fusion.ops[0].gradient
    assert gradient is not None
    assert f"_tg.{fusion.ops[0].in_training}(" in forward
    others = {op.name for op in fusion.ops} - {fusion.ops[0].in_training}
    launched = set(re.findall(r"_tg\.(\w+)\(", backward))
    assert launched <= others
    artefacts = found.stage("kernel").artefacts
    kernels = {a.title.split()[-1] for a in artefacts if a.language == "python"}
    assert {NAMED_AFTER_ANOTHER.get(op, op) for op in launched} <= kernels
    if name != "linear_cross_entropy":  # whose gradients are computed forward
        assert launched
    assert declared(fusion.ops[0]).names  # the schema of the op that is shown


def test_the_mask_of_attention_is_read() -> None:
    text = shown(tour("attention"), "match")
    assert re.search(r"^mask +causal +read out of what the graph computes$", text, re.M)
    assert "the mask is causal" in shown(tour("attention"), "gate")
    assert "is_causal=True" in shown(tour("attention"), "rewrite")


def test_identities_are_those_that_were_used() -> None:
    rows = tour("layer_norm").stage("terms").artefacts[0].text.split("\n")
    (product,) = (row for row in rows if row.startswith("mul "))
    assert product.split(maxsplit=3)[2:] == ["square(centred)", "x * x = square(x)"]
    (plain,) = (row for row in rows if row.startswith("mean "))
    assert plain == "mean     =  mean(wide, [-1])"


def test_the_same_call_gives_the_same_tour() -> None:
    def text(found: Walkthrough) -> str:  # torch counts the graphs of a process
        return re.sub(r"AOT ID: \['\d+_", "AOT ID: ['", found.to_text(full=True))

    assert text(tour.__wrapped__("silu_mul")) == text(tour("silu_mul"))
