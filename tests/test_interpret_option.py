"""tilegym.kernels="interpret": whole models through the real kernels, on a CPU.

Every site's kernel really runs (a spy counts them), none falls back, and the logits are within the
budget of eager's.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests import expectations
from tests.json_schema import violations
from tests.models import named
from tests.models.check import assert_like_eager
from tests.models.inputs import INPUTS
from tests.models.run import ours
from tile_backend.lowering import kernel_launch, launch_recipe, oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.interpreter import launch
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.patterns import all_fusions
from tile_backend.repro import Case

INTERPRET = {"tilegym.kernels": "interpret", "tilegym.strict": "no-fallback"}
SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text())


@pytest.fixture
def kernels_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the kernels that the interpreter runs; a fallback is an error."""
    names: list[str] = []
    interpret = launch.interpret

    def spy(grid: Any, kernel: Any, args: Any, **settings: Any) -> None:
        names.append(launch.adapter.parameter_names(kernel)[0])
        interpret(grid, kernel, args, **settings)

    monkeypatch.setattr(launch, "interpret", spy)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield names


@pytest.mark.sampled(6)
@pytest.mark.parametrize("call", ("prefill", "padded"))
@pytest.mark.parametrize("name", ("llama", "qwen3", "gemma3_text"))
def test_models_run_their_real_kernels_within_budget(
    name: str, call: str, kernels_run: list[str]
) -> None:
    model = named.build(name, torch.bfloat16)
    arguments = INPUTS[call](model)
    run = ours(named.build(name, torch.bfloat16), arguments, options=INTERPRET)
    assert run.counts == expectations.load(name)["float32 prefill model static"]["sites"]
    report = tile_backend.last_report()
    assert report is not None
    assert {str(site.decision) for site in report.fused} == {"interpreted"}
    assert len(kernels_run) == len(report.fused), "one launch per site"
    wide = oracle.widened(model)
    with torch.no_grad():
        eager = model(**arguments).logits
        with oracle.Float64():
            exact = wide(**INPUTS[call](wide)).logits
    verdict = within_budget(run.output.logits, exact, eager)
    assert verdict, f"{name}: logits: {verdict}"


def block(
    x: torch.Tensor,
    y: torch.Tensor,
    gain: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    """A residual add, a norm and a gated activation: one op with two results, one with one."""
    total = x + y
    normed = F.rms_norm(total, (total.shape[-1],), gain, 1e-6)
    gate, up = (normed @ gate_up).chunk(2, -1)
    return total + (F.silu(gate) * up) @ down


def example() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 5, 32), (3, 5, 32), (32,), (32, 128), (64, 32))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("dynamic", (None, True))
def test_it_trains_and_takes_dynamic_sizes(dynamic: bool | None, kernels_run: list[str]) -> None:
    inputs = [tensor.requires_grad_() for tensor in example()]
    report = assert_like_eager(block, *inputs, options=INTERPRET, dynamic=dynamic)
    assert report.counts["add_rms_norm"] == 1
    sites = sum(report.counts.values())
    assert "dout" not in kernels_run[:sites]
    assert kernels_run[sites:] == ["dout"] * sites, "each kernel, and then its gradient's"


def test_reports_say_interpreted(tmp_path: Path) -> None:
    report = explained(block, *example())
    assert 'interpreted x2: tilegym.kernels is "interpret"' in report.to_text()
    content = json.loads(report.to_json())
    assert list(violations(content, SCHEMA, SCHEMA, "report")) == []
    decisions = {site["decision"]["choice"] for site in content["sites"]}
    assert decisions == {"interpreted"}
    report.save(tmp_path)
    for script in tmp_path.rglob("repro.py"):
        assert "interpreted=True" in script.read_text()
        assert "+++ put in" in (script.parent / "diff.txt").read_text()


def explained(function: Callable[..., Any], *inputs: torch.Tensor) -> tile_backend.Report:
    """explain() with the option in force."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEGYM_KERNELS", "interpret")
        return tile_backend.explain(function, *inputs)


def test_a_repro_runs_the_kernel(kernels_run: list[str]) -> None:
    values = {"x": torch.randn(3, 7, dtype=torch.bfloat16), "weight": None, "eps": 1e-6}
    said = Case("rms_norm", values, interpreted=True).check()
    assert said.startswith("torch.ops.tilegym.rms_norm: output 0 ok")
    assert len(kernels_run) == 1


@pytest.mark.slow
def test_generated_code_calls_the_interpreted_ops(kernels_run: list[str]) -> None:
    """Through Inductor's code and back, not only through its graphs."""
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="tilegym", options=INTERPRET)
    found, eager = compiled(*example()), block(*example())
    exact = oracle.float64(block)(*example())
    assert len(kernels_run) == 2
    assert within_budget(found, exact, eager)


def values_of(dtype: torch.dtype = torch.float32, width: int = 16) -> dict[str, Any]:
    q = torch.randn(1, 2, 5, width).to(dtype)
    given = {"q": q, "k": q, "v": q, "mask": None, "scale": 0.25}
    return record("attention").signature.filled(given)


def test_what_a_kernel_does_not_take_runs_as_the_reference_with_one_warning() -> None:
    values, op = values_of(width=160), record("attention")
    kernel_launch.warn_once.cache_clear()
    words = r"attention runs its PyTorch reference, not its interpreted kernel: .* head is 1 to 128"
    with pytest.warns(KernelFallbackWarning, match=words):
        found = op.interpreted(*values.values())
    assert torch.equal(found, op.overload(*values.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op.interpreted(*values.values())


def test_a_kernel_that_breaks_a_rule_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing falls back silently when the kernel is wrong: here, one block too many."""
    recipe = launch_recipe.recipe

    def too_many_blocks(*key: Any) -> Any:
        found = recipe(*key)
        assert found is not None
        return found._replace(grid=(found.grid[0] + 1, *found.grid[1:]))

    monkeypatch.setattr(launch_recipe, "recipe", too_many_blocks)
    values = record("rms_norm").signature.bind(
        (), {"x": torch.ones(4, 8), "weight": None, "eps": 0.1}
    )
    with pytest.raises(KernelFault, match=r"kernel rms_norm at rows\.py:\d+ \(called from") as e:
        record("rms_norm").interpreted(*values.values())
    assert e.value.kind is FaultKind.TILE_OUTSIDE


def test_autocast_does_not_reach_into_kernels() -> None:
    op, values = record("attention"), values_of()
    with torch.autocast("cpu", torch.bfloat16):
        inside = op.interpreted(*values.values())
    assert torch.equal(inside, op.interpreted(*values.values()))


@pytest.mark.parametrize("fusion", all_fusions(), ids=lambda fusion: fusion.name)
def test_both_overloads_have_one_schema(fusion: Any) -> None:
    for op in fusion.ops:
        found = record(op.name)
        schema = str(found.interpreted._schema)
        assert schema.replace(f"{op.name}.interpreted(", f"{op.name}(") == str(
            found.overload._schema
        )
        assert found.interpreted is getattr(torch.ops.tilegym, op.name).interpreted
