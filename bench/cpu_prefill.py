"""Prefill of a whole model on a CPU: `backend="tilegym"` against `backend="inductor"`.

Transformers hands attention an explicit mask; one that is proven causal is left out, so attention
skips what it hides and reads K and V unexpanded. Both are compiled in one process and run turn by
turn; a second copy compiled with Inductor shows the noise. Peak memory is what one step adds to a
fresh process for each backend.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from typing import Any

import torch

from bench import cpu_parity, fresh_process, result_file
from bench.cpu_parity import BACKENDS, Step
from bench.tiny_llama import tokens
from tile_backend import step_memory, turns
from tile_backend.lowering.progress import track

LENGTHS = (512, 2048, 4096)
DTYPE = torch.float32


def model(layers: int) -> Any:
    """A Llama of 512, with 8 query heads and 2 key heads, 64 wide each."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=max(LENGTHS),
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(DTYPE).eval()


def warm_step(backend: str, layers: int, length: int, runs: int = 2) -> Step:
    """A compiled prefill that has run."""
    compiled = torch.compile(model(layers), backend=backend, dynamic=False)
    step = cpu_parity.inference_step(compiled, tokens(1, length))
    for _ in range(runs):
        step()
    return step


def peak_mib(backend: str, layers: int, length: int) -> float:
    """What a step needs at most beyond what its process has before; that must be a fresh one."""
    step = warm_step(backend, layers, length)
    return step_memory.cpu_peak_mib(step)


def measure(length: int, layers: int, rounds: int) -> dict[str, Any]:
    """One row: milliseconds, Inductor's time over ours in each round, and peak memory."""
    torch.compiler.reset()
    steps = {name: warm_step(backend, layers, length) for name, backend in BACKENDS.items()}
    seconds = turns.time_rounds(steps, rounds)
    ratios = {
        name: [
            theirs / ours for ours, theirs in zip(seconds[name], seconds["inductor"], strict=True)
        ]
        for name in ("tilegym", "noise")
    }
    with tempfile.TemporaryDirectory() as cache:
        peaks = {
            name: fresh_process.call(
                "bench.cpu_prefill", "peak_mib", name, layers, length, cache=cache
            )
            for name in ("inductor", "tilegym")
        }
    return {
        "tokens": length,
        **{
            f"{name}_ms": round(1e3 * statistics.median(seconds[name]), 2)
            for name in ("inductor", "tilegym")
        },
        "speedup": turns.spread(ratios["tilegym"]),
        "noise": turns.spread(ratios["noise"]),
        **{f"{name}_peak_mib": round(peak, 1) for name, peak in peaks.items()},
    }


def report(rows: list[dict[str, Any]]) -> str:
    """The table that is printed last."""
    header = ("tokens", "inductor ms", "tilegym ms", "speedup", "noise", "peak MiB", "ours")
    return result_file.table(
        header,
        [
            (
                row["tokens"],
                row["inductor_ms"],
                row["tilegym_ms"],
                f"{row['speedup']['median']:.2f}",
                f"{row['noise']['median']:.2f}",
                row["inductor_peak_mib"],
                row["tilegym_peak_mib"],
            )
            for row in rows
        ],
    )


def main() -> None:
    """Measure every length and save the result."""
    parser = argparse.ArgumentParser(description="Prefill on a CPU.")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-save", action="store_true", help="print only")
    given = parser.parse_args()
    rows = [measure(length, given.layers, given.rounds) for length in track(LENGTHS, "cpu_prefill")]
    if not given.no_save:
        facts = {"settings": vars(given), "threads": torch.get_num_threads()}
        path = result_file.save("cpu_prefill", rows, **facts)
        print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows))


if __name__ == "__main__":
    main()
