"""What a compile comes to, in numbers that no clock has part in: the same on every machine.

Small models of real architectures are compiled up to the code, with every op put in, as for a GPU,
and by Inductor alone. Per model, inference and training:

sites       that were fused.
launches    of our kernels in the code, forward and backward.
bytes       that these read and write, every tensor once: the least that they can move.
loops       kernels that Inductor generates beside them; `plain_loops`: those of Inductor alone.
products    calls of other kernels, matrix products mostly; `plain_products` likewise.
nodes       operations in AOTAutograd's graphs; `plain_nodes` likewise.
calls       of Python functions: made by our passes, patterns traced; and by Inductor alone. Their
            ratio is our share of a compile, the same to a few per cent wherever it runs.

bench/results/static_counters.json is what tests/test_static_counters.py compares. Where a number
has to change, run `python -m bench.static_counters` and say why in the commit.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from bench import result_file
from tile_backend import inductor, inductor_stages, pipeline, registry, tiny_model
from tile_backend.inductor_stages import Compiled
from tile_backend.lowering import inductor_ir, recompute
from tile_backend.lowering.progress import track
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.lowering.tensor_layout import Layout
from tile_backend.options import Options

OPTIONS, _ = Options.parse({"tilegym.kernels": "always"}, environ={})
MODELS = ("llama", "qwen3", "gemma3_text", "phi3", "gpt_oss")
MODES = ("inference", "training")
BATCH, LENGTH = 2, 32
COUNTED = ("launches", "bytes", "loops", "products", "nodes")
"""Of these fewer are better."""
MOST_CALLS = 0.1
"""The promise for two layers: our passes make at most this share of Inductor's calls. Twice that of
bench.compile_time for 32, since part of it is once per model: what its mask means.
"""
LOOP = re.compile(r"^ +(?:cpp|triton)_\w+(?:\.run)?\(", re.MULTILINE)
PRODUCT = re.compile(r"\bextern_kernels\.\w+\(|\btorch\.ops\.\w+\.\w+\.\w+\(")
NODE = re.compile(r" = torch\.ops\.", re.MULTILINE)
Result = TypeVar("Result")


def counters(model_type: str, mode: str) -> dict[str, Any]:
    """One row."""
    ours, theirs = (captured(model_type, mode, rewritten) for rewritten in (True, False))
    return {
        "case": model_type,
        "mode": mode,
        **{name: count for name, count in ours.items() if "calls" not in name},
        **{f"plain_{name}": theirs[name] for name in ("loops", "products", "nodes")},
        "calls": {"passes": ours["passes_calls"], "inductor": theirs["inductor_calls"]},
    }


def captured(model_type: str, mode: str, rewritten: bool) -> dict[str, int]:
    """The counters of one compile. rewritten: with our ops, else Inductor alone."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = tiny_model.tiny_model(model_type, dtype=torch.bfloat16)
    ids = tiny_model.tokens(BATCH, LENGTH)
    arguments = {"input_ids": ids, "use_cache": False}
    training = mode == "training"
    if training:
        model.train()
        arguments["labels"] = ids
    visit = functools.partial(counted, rewritten)
    with torch.set_grad_enabled(training):
        found = inductor.capture(model, (), arguments, visit)
    if found.visited is None or found.break_reason:
        raise RuntimeError(f"{model_type} {mode}: its graph ended early: {found.break_reason}")
    result: dict[str, int] = found.visited
    return result


def counted(rewritten: bool, module: fx.GraphModule) -> dict[str, int]:
    """Inside a capture: rewrite, compile up to the code, and count."""
    sites, ours = 0, 0
    if rewritten:
        # The first steps of a process are in bench.compile_time.
        pipeline.analyse(module, OPTIONS)
        inductor_ir.install(registry.known_fusions())
        sites, ours = with_calls(lambda: rewrite(module))
    passes = {"joint_custom_post_pass": recompute.RecomputeCheapOps("counters")}
    with inductor_ir.force_direct_launch(), inductor_ir.written_launches() as launches:
        inputs = inductor.captured_inputs()
        parts, theirs = with_calls(lambda: inductor_stages.watched(module, inputs, passes))
    if failures := [part.failure for part in parts if part.failure]:
        raise RuntimeError(f"Inductor: {failures[0]}")
    counts = {"sites": sites, **of_launches(launches), **of_code(parts)}
    return {**counts, "passes_calls": ours, "inductor_calls": theirs}


def rewrite(module: fx.GraphModule) -> int:
    """Put in every op; how many sites there are."""
    found = pipeline.analyse(module, OPTIONS)
    found.apply()
    return sum(site.status == "fused" for site in found.sites)


def with_calls(function: Callable[[], Result]) -> tuple[Result, int]:
    """What the function returns, and how many Python functions it calls, all the way down."""
    profile = cProfile.Profile(builtins=False)
    result = profile.runcall(function)
    return result, sum(entry.callcount for entry in profile.getstats())


def of_launches(launches: Sequence[LaunchSite]) -> dict[str, int]:
    """How many there are, and what they move."""
    tensors = (v for launch in launches for v in launch.values if isinstance(v, Layout))
    moved = sum(t.dtype.itemsize * torch.Size(map(int, t.shape)).numel() for t in tensors)
    return {"launches": len(launches), "bytes": moved}


def of_code(parts: Sequence[Compiled]) -> dict[str, int]:
    """What the generated programs call, and what AOTAutograd made of the graph."""
    codes = [part.code[part.code.index("def call(") :] for part in parts]
    return {
        "loops": sum(len(LOOP.findall(code)) for code in codes),
        "products": sum(len(PRODUCT.findall(code)) for code in codes),
        "nodes": sum(len(NODE.findall(part.aten)) for part in parts),
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The table that is printed last."""
    names = [name for name in rows[0] if name not in ("case", "mode", "calls")]
    lines = [
        (f"{row['case']} {row['mode']}", *(row[name] for name in names), f"{share(row):.1%}")
        for row in rows
    ]
    return result_file.table(("", *names, "our calls"), lines)


def share(row: Mapping[str, Any]) -> float:
    """Of the passes in a compile, by calls."""
    calls = row["calls"]
    return float(calls["passes"] / calls["inductor"])


def main() -> None:
    """Count everything and save the result."""
    parser = argparse.ArgumentParser(description="Counters of a compile, without a clock.")
    parser.add_argument("--no-save", action="store_true", help="print only")
    given = parser.parse_args()
    cases = [(model, mode) for model in MODELS for mode in MODES]
    rows = [counters(*case) for case in track(cases, "static_counters")]
    if not given.no_save:
        path = result_file.save("static_counters", rows)
        print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows))


if __name__ == "__main__":
    main()
