"""Decoding in more parts and in fewer: the same result, measured, and then taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.tuning_entries import ARCH
from tile_backend import precompile, tuning_measure, tuning_steps
from tile_backend.lowering import gate, steps, tuning_store
from tile_backend.lowering.custom_op import define, record
from tile_backend.lowering.interpreter.launch import interpret
from tile_backend.lowering.launch_configuration import DEFAULT
from tile_backend.lowering.prune import Call
from tile_backend.registry import known_fusions
from tile_backend.targets import Target
from tile_backend.tuning import Tuned, tune
from tile_backend.tuning_measure import Bench

GPU = "Simulated GPU"
pytestmark = pytest.mark.usefixtures("tuning")


def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def target(keys: int = 4096) -> Target:
    torch.compiler.reset()
    k = torch.empty(1, 2, keys, 64, dtype=torch.bfloat16, device="meta")
    q = torch.empty(1, 2, 1, 64, dtype=torch.bfloat16, device="meta")
    return Target("Decode", decode, (q, k, k))


def fastest(way: str) -> Callable[[str], Bench]:
    """Where that way takes half the time."""

    def clock(ways: Mapping[str, Any], samples: int) -> dict[str, list[float]]:
        return {n: [5.0 if n == way else 10.0] * samples for n in ways}

    return lambda _: Bench("meta", lambda *_: None, clock, GPU, "1.0")


def tuned(way: str, monkeypatch: pytest.MonkeyPatch, keys: int = 4096) -> Tuned:
    monkeypatch.setattr(tuning_measure, "disagreeing", lambda *_: {})
    monkeypatch.setattr(tuning_steps, "exactly", lambda *_: None)
    monkeypatch.setattr(tuning_steps.oracle, "within_budget", lambda *_: True)
    monkeypatch.setattr("tile_backend.tuning.pruned", first_only)
    return tune(target(keys), [ARCH], bench_of=fastest(way), slices=False)


def first_only(call: Call) -> Any:
    from tile_backend.lowering.kernels.configuration import as_planned, everything
    from tile_backend.lowering.prune import Candidate, Pruned

    recipe = call.recipe(as_planned)
    assert recipe is not None
    return Pruned((Candidate(everything(call.recipe)[0], recipe, None),), {})  # type: ignore[arg-type]


def launched() -> list[tuple[str, Any]]:
    """The ops of the target, and into how many parts they divide the keys."""
    sites, _ = precompile.sites_of(target(), [ARCH])
    return sorted(
        (site.op, dict(zip(site.names, site.values, strict=False)).get("splits")) for site in sites
    )


def test_the_parts_that_were_fastest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == [("attention_join", None), ("attention_split", 16)]
    number = gate.ASSUMED_MULTIPROCESSORS
    found = tuned(steps.way_of(1), monkeypatch)
    last = found.rows[-1]
    assert last.job.kind.text.startswith("attention.steps q=bf16[64]")
    assert last.entry is not None
    assert last.entry.chosen == "multiprocessors=1"
    assert set(last.entry.times) == {DEFAULT, "multiprocessors=1"}, "16 parts are the most"
    assert launched() == [("attention", None)]
    assert number == 132


def one_query(k: torch.Tensor) -> Call:
    """Attention of one query for each head over all of k."""
    q, none = k[:, :, :1], (None,) * 5
    values = record("attention").signature.bind((q, k, k, *none, 0.125))
    return Call("attention", tuple(values), (*values.values(), torch.empty_like(q)), ARCH)


def test_the_ways_to_divide_a_call() -> None:
    define(known_fusions())
    k = torch.empty(4, 8, 1 << 16, 64, dtype=torch.bfloat16, device="meta")
    values = record("attention").signature.bind(
        (k[:, :, :1], k, k, None, None, None, None, None, 1)
    )
    out = torch.empty_like(k[:, :, :1])
    call = Call("attention", tuple(values), (*values.values(), out), ARCH)
    ways = tuning_steps.divisions(call, 132)
    found = {name: [step.op for step in way] for name, way in ways.items()}
    divided = ["attention_split", "attention_join"]
    assert found == {
        DEFAULT: divided,
        **{f"multiprocessors={n}": divided for n in (66, 264, 528)},
        "multiprocessors=1": ["attention"],
    }
    parts = [way[0].arguments.get("splits") for way in ways.values()]
    assert parts == [9, 5, 17, 33, None]


def test_every_division_has_the_same_result() -> None:
    define(known_fusions())
    k = torch.empty(1, 2, 1200, 16, device="meta")
    values = record("attention").signature.bind(
        (k[:, :, :1], k, k, None, None, None, None, None, 1)
    )
    out = torch.empty_like(k[:, :, :1])
    call = Call("attention", tuple(values), (*values.values(), out), ARCH)
    asked = []

    def clock(ways: Mapping[str, Any], samples: int) -> dict[str, list[float]]:
        asked.append(tuple(ways))
        return {name: [1.0] * samples for name in ways}

    def launch(kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        interpret(grid, kernel, arguments)

    bench = Bench("cpu", launch, clock, GPU, "1.0")
    ways = tuning_steps.divisions(call, 4)
    arguments = dict(zip(call.names, call.values, strict=False))
    kind = steps.kind_of_steps(record("attention").op, arguments)
    found = tuning_steps.measure(bench, call, kind, ways)
    assert found.wrong == {}
    assert found.chosen == DEFAULT
    assert set(asked[0]) == set(ways)
    assert len(ways) == 3


def test_a_long_prompt_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned("none", monkeypatch, keys=128)
    assert [row.job.kind.text.split()[0] for row in found.rows] == ["attention"]


def test_a_measurement_that_says_nothing_of_parts_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = tuned(steps.way_of(1), monkeypatch)
    entry = found.rows[-1].entry
    assert entry is not None
    times = {name.replace("=1", "=0"): spread for name, spread in entry.times.items()}
    bad = dataclasses.replace(entry, times=times, chosen="multiprocessors=0")
    assert tuning_store.record(ARCH, [bad])
    assert launched() == [("attention_join", None), ("attention_split", 16)]
