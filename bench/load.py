"""What many compiles and long runs cost: seconds of our passes beside Inductor's, and memory.

Each load runs in a fresh process with empty caches, by Inductor alone and by us. Recompiles: one
function called with that many lengths, each a graph of its own. Callables: so many compiled
functions alive at once. Layers: a tiny Llama that deep. Nodes: one graph of that many operations.
Steps: a tiny Llama with `verify="always"`, so that every site is compared at every step; Inductor's
are its own steps. `passes_s` are the seconds of everything that we do in the backend, `inductor_s`
those of Inductor compiling the same graphs in the process that is ours. `kib` and `objects` are
what the second half of the load added, per item: resident memory, and objects that Python's
collector knows. `freed` is the part of the objects of all callables that is gone once they are.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from bench import fresh_process, result_file
from bench.compile_time import timed
from tile_backend.lowering.progress import track

SIZES = {"recompiles": 300, "callables": 100, "layers": 500, "nodes": 20_000, "steps": 1_000}
Compile = Callable[..., Any]
"""torch.compile by the backend that is measured."""
BACKENDS = ("inductor", "tilegym")
ALWAYS = {"tilegym.kernels": "always"}
"""What a GPU would have: on a CPU the gate leaves nearly all to Inductor, and we would do less."""
BLOCK = 16
"""Operations of one block of the graph that has many."""


class Memory:
    """Taken twice: in the middle of a load and at its end."""

    def __init__(self, items: int) -> None:
        self.middle, self.items = items - items // 2, items
        self.taken: list[tuple[float, int]] = []

    def after(self, item: int) -> None:
        """item: how many are done."""
        if item in (self.middle, self.items):
            gc.collect()
            self.taken.append((resident_kib(), len(gc.get_objects())))

    def growth(self) -> dict[str, float]:
        """Per item of the second half."""
        (kib, objects), (kib_then, objects_then) = self.taken[0], self.taken[-1]
        items = max(self.items - self.middle, 1)
        return {
            "kib": round((kib_then - kib) / items, 2),
            "objects": round((objects_then - objects) / items, 2),
        }


def resident_kib() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1024


def recompiles(compiles: Compile, count: int) -> dict[str, float]:
    """A gated MLP behind a norm, for so many lengths of its input."""
    import torch

    call = compiles(block(), dynamic=False)
    memory = Memory(count)
    with torch.no_grad():
        for item in range(1, count + 1):
            call(torch.ones(1, item + 1, 32))
            memory.after(item)
    return memory.growth()


def callables(compiles: Compile, count: int) -> dict[str, float]:
    """So many of them, of modules of their own; then all are deleted."""
    import torch

    memory, alive, x = Memory(count), list[Any](), torch.ones(1, 8, 32)
    gc.collect()
    before = len(gc.get_objects())
    with torch.no_grad():
        for item in range(1, count + 1):
            alive.append(compiles(block()))
            alive[-1](x)
            memory.after(item)
    held = memory.taken[-1][1] - before
    alive.clear()
    torch.compiler.reset()
    gc.collect()
    return {**memory.growth(), "freed": round(1 - (len(gc.get_objects()) - before) / held, 3)}


def layers(compiles: Compile, count: int) -> dict[str, float]:
    """One compile of one model."""
    import torch

    from bench.tiny_llama import tiny_llama, tokens

    with torch.no_grad():
        compiles(tiny_llama(count))(tokens(1, 16), use_cache=False)
    return {}


def nodes(compiles: Compile, count: int) -> dict[str, float]:
    """One compile of one function: norms, gates and matrix products, over and over."""
    import torch

    weight, matrix = torch.ones(32), torch.eye(32)

    def function(x: torch.Tensor) -> torch.Tensor:
        for _ in range(count // BLOCK):
            h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
            gate, up = (h @ matrix).chunk(2, -1)
            x = x + torch.cat((torch.nn.functional.silu(gate) * up, gate), -1)
        return x

    with torch.no_grad():
        compiles(function)(torch.ones(8, 32))
    return {}


def steps(compiles: Compile, count: int) -> dict[str, float]:
    """Inference, over and over."""
    import torch

    from bench.tiny_llama import tiny_llama, tokens

    call, ids = compiles(tiny_llama(2)), tokens(1, 16)
    memory = Memory(count)
    with torch.no_grad():
        call(ids, use_cache=False)
        begin = time.perf_counter()
        for item in range(1, count + 1):
            call(ids, use_cache=False)
            memory.after(item)
    ms = 1e3 * (time.perf_counter() - begin) / count
    return {**memory.growth(), "step_ms": round(ms, 3)}


LOADS: Mapping[str, Callable[[Compile, int], dict[str, float]]] = {
    "recompiles": recompiles,
    "callables": callables,
    "layers": layers,
    "nodes": nodes,
    "steps": steps,
}


def block() -> Any:
    """A module of RMSNorm and a SwiGLU MLP, 32 features."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.RMSNorm(32)
            self.gate, self.up, self.down = (nn.Linear(32, 32, bias=False) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(x)
            gated = nn.functional.silu(self.gate(h)) * self.up(h)
            return torch.add(x, self.down(gated))

    torch.manual_seed(0)
    return Block().eval()


def run(load: str, backend: str, count: int) -> dict[str, float]:
    """One load in this process: seconds, sites that were rewritten, and what it finds itself."""
    import torch
    from torch._dynamo import config

    torch.set_num_threads(1)
    first_steps: Callable[..., Any] = torch.compile(torch.relu, backend="inductor")
    first_steps(torch.ones(64))
    clock = [0.0]
    options = dict(ALWAYS if backend == "tilegym" else {})
    if options and load == "steps":
        options["tilegym.verify"] = "always"
    compiles = functools.partial(torch.compile, backend=timed(backend, clock), options=options)
    limits = {"recompile_limit": count + 1, "accumulated_recompile_limit": 2 * count + 9}
    with config.patch(limits), reported() as rows:
        found = LOADS[load](compiles, count)
    passes, sites = (sum(column) for column in zip((0.0, 0), *rows, strict=True))
    ours = {"passes_s": round(passes, 3), "sites": sites} if backend == "tilegym" else {}
    return {"inductor_s": round(clock[0] - passes, 3), **ours, **found}


@contextlib.contextmanager
def reported() -> Iterator[list[tuple[float, int]]]:
    """The list gets, for each graph that our backend rewrites, its seconds and fused sites."""
    from tile_backend.sessions import Session

    rows, add = list[tuple[float, int]](), Session.add

    def noted(
        self: Session, attempt: Any, sites: Any, facts: Any, seconds: float, *rest: Any
    ) -> Any:
        rows.append((seconds, sum(site.status == "fused" for site in sites)))
        return add(self, attempt, sites, facts, seconds, *rest)

    with mock.patch.object(Session, "add", noted):
        yield rows


def measure(load: str, count: int) -> Iterator[dict[str, Any]]:
    """One row for each backend."""
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory() as cache:
            found = fresh_process.call("bench.load", "run", load, backend, count, cache=cache)
        yield {"load": load, "count": count, "backend": backend, **found}


COLUMNS = ("inductor_s", "passes_s", "sites", "step_ms", "kib", "objects", "freed")


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table that is printed last."""
    lines = [
        (f"{row['count']} {row['load']}", row["backend"], *(row.get(n, "") for n in COLUMNS))
        for row in rows
    ]
    return result_file.table(("load", "backend", *COLUMNS), lines)


def main() -> None:
    """Measure every load and save the result."""
    parser = argparse.ArgumentParser(description="Many compiles, deep models, long runs.")
    for load, size in SIZES.items():
        parser.add_argument(f"--{load}", type=int, default=size, help="0: left out")
    chosen = vars(parser.parse_args())
    loads = [(load, count) for load, count in chosen.items() if count]
    rows = [row for load, count in track(loads, "load") for row in measure(load, count)]
    path = result_file.save("load", rows)
    print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows))


if __name__ == "__main__":
    main()
