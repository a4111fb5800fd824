"""One program eager, with Inductor and with this backend, on this machine: `tile-backend bench`.

The versions run turn by turn. Each is held to the budget against float64: one that is wrong is void
and cannot win. Compile times are of empty caches of torch, in a process that has compiled before;
compiled kernels that the store has are not compiled again. Memory is what a warm step adds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tile_backend import code_counts, dynamo_counts, kernel_events, step_memory, turns
from tile_backend.errors import BadTarget
from tile_backend.fresh_cache import fresh_cache
from tile_backend.lowering import memory_bound, oracle
from tile_backend.lowering.budget import Verdict, within_budget
from tile_backend.lowering.progress import track
from tile_backend.targets import Target

BACKENDS: dict[str, str | None] = {"eager": None, "inductor": "inductor", "tilegym": "tilegym"}
COUNTED = {"inductor": None, "tilegym": "auto"}
"""What tilegym.kernels is, of the versions whose code is counted."""


@dataclasses.dataclass
class Version:
    """What one version came to. seconds: of each round. kernels: launched by a step; on a CPU those
    in Inductor's code. missing: column -> why it is empty.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    compile_s: float | None = None
    graphs: int | None = None
    breaks: list[str] = dataclasses.field(default_factory=list)
    peak_mib: float | None = None
    kernels: int | None = None
    verdict: Verdict | None = None
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def void(self) -> bool:
        return self.verdict is not None and not self.verdict


@dataclasses.dataclass(frozen=True)
class Contest:
    """Versions by name, in the order of BACKENDS; one without `seconds` did not run."""

    title: str
    device: str
    rounds: int
    mode: str | None
    versions: Mapping[str, Version]

    @property
    def ran(self) -> dict[str, Version]:
        """Those that were timed and are not wrong."""
        return {n: v for n, v in self.versions.items() if v.seconds and not v.void}


def hold(target: Target, rounds: int, mode: str | None, device: str) -> Contest:
    """Measure every version of the target. rounds: at least 2. device: "cpu" or "cuda".

    Raises BadTarget where the program has no weights.
    """
    torch.compiler.reset()
    target = placed(target, device)
    versions = {name: Version() for name in BACKENDS}
    steps: dict[str, turns.Step] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        judge = judged(target, device)
        count_code(target, versions)
        for name in track(list(BACKENDS), "bench: compiling"):
            found = versions[name]
            with fresh_cache(folder), kept_reason(found, "time"):
                steps[name] = prepared(target, name, mode, device, found, judge)
        for name, seconds in turns.time_rounds(steps, rounds).items():
            versions[name].seconds = seconds
    return Contest(target.title, device, rounds, mode, versions)


def placed(target: Target, device: str) -> Target:
    """The target with weights and inputs on the device."""
    function = target.function
    if isinstance(function, torch.nn.Module):
        if any(p.is_meta for p in function.parameters()):
            raise BadTarget(
                target=target.title,
                cause="it has no weights",
                fix="Name a factory of yours that makes them (package.module:factory)",
            )
        function = function.to(device)
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda x: x.to(device), (target.args, dict(target.kwargs))
    )
    return Target(target.title, function, args, kwargs)


def prepared(
    target: Target,
    name: str,
    mode: str | None,
    device: str,
    found: Version,
    judge: Callable[[Any], Verdict] | str,
) -> turns.Step:
    """A warm step of one version; everything but its time goes into `found`."""
    call = compiled(target, name, mode, device)

    def step() -> Any:
        result = call(*target.args, **target.kwargs)
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    with dynamo_counts.graphs() as graphs:
        first = seconds_of(step)
    second = seconds_of(step)
    if BACKENDS[name]:
        found.compile_s = max(first - second, 0.0)
        found.graphs, found.breaks = graphs.count, graphs.breaks
    with kept_reason(found, "correct"):
        if isinstance(judge, str):
            found.missing["correct"] = judge
        else:
            found.verdict = judge(step())
    with kept_reason(found, "peak_mib"):
        found.peak_mib = step_memory.peak_mib(step, device)
    if device == "cuda":
        with kept_reason(found, "kernels"):
            found.kernels = kernel_events.launched(step)
    return step


def compiled(target: Target, name: str, mode: str | None, device: str) -> Callable[..., Any]:
    """The program as a user compiles it; eager as it is."""
    backend = BACKENDS[name]
    if backend is None:
        return target.function
    first_steps(device)
    made: Callable[..., Any] = torch.compile(target.function, backend=backend, mode=mode)
    return made


def first_steps(device: str) -> None:
    """What Inductor does once in an empty cache, as probe the compiler, is no compile time."""
    relu: Callable[..., Any] = torch.compile(torch.relu, backend="inductor")
    relu(torch.ones(64, device=device))


def count_code(target: Target, versions: Mapping[str, Version]) -> None:
    """Kernels in the code that is generated. It comes first, since it also pays for what a process
    does once, whichever version is first.
    """
    for name, kernels in COUNTED.items():
        with kept_reason(versions[name], "kernels"):
            counted = code_counts.counts(target.function, target.args, target.kwargs, kernels)
            versions[name].kernels = counted.kernels


def judged(target: Target, device: str) -> Callable[[Any], Verdict] | str:
    """What holds a result against float64, or why there is none."""
    try:
        memory_bound.check(read_by(target), False, torch.device(device))
        exact = oracle.float64(oracle.widened(target.function))(*target.args, **target.kwargs)
        original = target.function(*target.args, **target.kwargs)
    except Exception as error:  # noqa: BLE001 - whatever it is, the table says it
        return reason_of(error)
    expected = tensors(exact), tensors(original)
    return lambda result: within_budget(tensors(result), *expected)


def read_by(target: Target) -> list[torch.Tensor]:
    """Weights and inputs."""
    module = target.function if isinstance(target.function, torch.nn.Module) else torch.nn.Module()
    inputs = pytree.tree_leaves((target.args, dict(target.kwargs)))
    given = [x for x in inputs if isinstance(x, torch.Tensor)]
    return [*module.parameters(), *module.buffers(), *given]


def tensors(tree: Any) -> list[torch.Tensor]:
    """All of a result, kept as they are now: CUDA graphs write into the same memory again."""
    return [x.clone() for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


@contextlib.contextmanager
def kept_reason(found: Version, column: str) -> Iterator[None]:
    """A failure inside leaves its reason."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the table says it
        found.missing[column] = reason_of(error)


def reason_of(error: Exception) -> str:
    """In one line."""
    error = getattr(error, "inner_exception", None) or error
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def seconds_of(step: turns.Step) -> float:
    """Of one call."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin
