"""What a compile comes to, in numbers that no clock has part in: the same on every machine.

Small models of real architectures are compiled up to the code, with every op put in, as for a GPU,
and by Inductor alone. Per model, inference and training:

sites       that were fused.
launches    of our kernels in the code, forward and backward.
bytes       that these read and write, every tensor once: the least that they can move.
loops       kernels that Inductor generates beside them; `plain_loops`: those of Inductor alone.
products    calls of other kernels, matrix products mostly; `plain_products` likewise.
nodes       operations in AOTAutograd's graphs; `plain_nodes` likewise.
calls       of Python functions: made by our passes, the first steps of a process left out; and by
            Inductor alone. Their ratio is our share of a compile, the same to a few per cent
            wherever it runs.

bench/results/static_counters.json is what tests/test_static_counters.py compares. Where a number
has to change, run `python -m bench.static_counters` and say why in the commit.
"""

from __future__ import annotations

import argparse
import cProfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import tile_backend
from bench import result_file
from tile_backend import code_counts, tiny_model
from tile_backend.lowering.progress import track

MODELS = ("llama", "qwen3", "gemma3_text", "phi3", "gpt_oss")
MODES = ("inference", "training")
BATCH, LENGTH = 2, 32
COUNTED = ("launches", "bytes", "loops", "products", "nodes")
"""Of these fewer are better."""
MOST_CALLS = 0.1
"""The promise for two layers: our passes make at most this share of Inductor's calls. Twice that of
bench.compile_time for 32, since part of it is once per model: what its mask means.
"""


def counters(model_type: str, mode: str, with_calls: bool = True) -> dict[str, Any]:
    """One row. with_calls: False leaves out `calls`, which take as long as all the rest."""
    (ours, our_calls), (theirs, their_calls) = (
        captured(model_type, mode, rewritten, with_calls) for rewritten in (True, False)
    )
    row = {
        "case": model_type,
        "mode": mode,
        **ours,
        **{f"plain_{name}": theirs[name] for name in ("loops", "products", "nodes")},
    }
    if with_calls:
        row["calls"] = {"passes": our_calls["passes"], "inductor": their_calls["inductor"]}
    return row


def captured(
    model_type: str, mode: str, rewritten: bool, with_calls: bool = True
) -> tuple[dict[str, int], dict[str, int]]:
    """The counters and calls of one compile. rewritten: with our ops, else Inductor alone."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = tiny_model.tiny_model(model_type, dtype=torch.bfloat16)
    ids = tiny_model.tokens(BATCH, LENGTH)
    arguments = {"input_ids": ids, "use_cache": False}
    training = mode == "training"
    if training:
        model.train()
        arguments["labels"] = ids
    calls: dict[str, int] = {}

    def counted(name: str, function: Callable[[], Any]) -> Any:
        profile = cProfile.Profile(builtins=False)
        result = profile.runcall(function)
        calls[name] = sum(entry.callcount for entry in profile.getstats())
        return result

    with torch.set_grad_enabled(training):
        if rewritten and with_calls:  # the first steps of a process are in bench.compile_time
            tile_backend.explain(model, **arguments)
        step = counted if with_calls else code_counts.called
        found = code_counts.counts(model, (), arguments, "always" if rewritten else None, step)
    return {name: getattr(found, name) for name in ("sites", *COUNTED)}, calls


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The table that is printed last."""
    names = [name for name in rows[0] if name not in ("case", "mode", "calls")]
    lines = [
        (f"{row['case']} {row['mode']}", *(row[name] for name in names), f"{share(row):.1%}")
        for row in rows
    ]
    return result_file.table(("", *names, "our calls"), lines)


def share(row: Mapping[str, Any]) -> float:
    """Of our passes in a compile, by calls."""
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
