"""`make demo`: compile small models that run Transformers' own code, and show what happened.

The weights are random and nothing is downloaded. On a machine without a GPU every site is left to
Inductor; the third run puts our ops in all the same, to show that they compute the same numbers.
The last line is a measurement: a prefill, where a mask that is proven causal is not computed.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import tile_backend
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.oracle import Float64, widened

TYPES = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}
SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "use_cache": False,
}


def main(folder: str = "tilegym-report") -> None:
    """Prints to the terminal; writes a dump for each model below `folder`."""
    transformers.logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, device {device}\n")
    for name in TYPES:
        show(name, device, Path(folder) / name)
    print(prefill(device))
    print(
        "Next: README.md says how to read a report;"
        " python -m tile_backend explain TYPE tries another."
    )


def show(name: str, device: str, folder: Path) -> None:
    """One model: what was found in it, how far its output is off, and where the dump is."""
    torch.manual_seed(0)
    config = TYPES[name](**SIZES)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = model.eval().to(device)
    ids = torch.randint(0, SIZES["vocab_size"], (2, 64), device=device)
    print(f'model = {type(model).__name__}(...); torch.compile(model, backend="tilegym")(ids)')
    with torch.no_grad():
        eager, exact = model(ids).logits, in_float64(model, ids)
        logits = run(model, ids)
        report = tile_backend.last_report()
        assert report is not None
        print(report.to_text())
        print(f"output: {compared(logits, exact, eager)}")
        with warnings.catch_warnings():  # on a CPU each op says that it runs its reference
            warnings.simplefilter("ignore")
            forced = run(model, ids, {"tilegym.kernels": "always"})
        print(f"with every op put in (tilegym.kernels=always): {compared(forced, exact, eager)}")
    report.save(folder)
    print(f"dump: {folder}/index.html (report.txt, report.json, one folder per rewrite)\n")


def in_float64(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The logits of the same weights and the same code in float64."""
    wide = widened(model)
    with Float64():
        logits: torch.Tensor = wide(ids).logits
    return logits


def run(
    model: torch.nn.Module,
    ids: torch.Tensor,
    options: dict[str, str | int | bool | Callable[..., Any]] | None = None,
) -> torch.Tensor:
    """The compiled model's logits."""
    torch.compiler.reset()
    began = time.perf_counter()
    compiled = torch.compile(model, backend="tilegym", options=options)
    logits: torch.Tensor = compiled(ids).logits
    print(f"compiled and ran in {time.perf_counter() - began:.1f} s")
    return logits


LONG = {**SIZES, "hidden_size": 512, "head_dim": 64, "intermediate_size": 1024}
TOKENS, TURNS = 2048, 5


def prefill(device: str) -> str:
    """How long a prefill takes with Inductor and with this backend, measured turn by turn."""
    torch.manual_seed(0)
    sizes = {**LONG, "max_position_embeddings": TOKENS}
    model = transformers.LlamaForCausalLM(TYPES["llama"](**sizes)).eval().to(device)
    ids = torch.randint(0, SIZES["vocab_size"], (1, TOKENS), device=device)
    torch.compiler.reset()
    found: dict[str, list[float]] = {"inductor": [], "tilegym": []}
    with torch.no_grad():
        compiled: dict[str, Callable[..., Any]] = {
            name: torch.compile(model, backend=name, dynamic=False) for name in found
        }
        for step in compiled.values():
            step(ids)
        for _ in range(TURNS):
            for name, step in compiled.items():
                began = time.perf_counter()
                step(ids).logits[0, 0, 0].item()  # waits for a GPU
                found[name].append(1e3 * (time.perf_counter() - began))
    times = {name: statistics.median(each) for name, each in found.items()}
    return (
        f"prefill of {TOKENS} tokens, measured now: {times['inductor']:.0f} ms with inductor,"
        f" {times['tilegym']:.0f} ms with tilegym,"
        f" {times['inductor'] / times['tilegym']:.2f} times as fast\n"
    )


def compared(actual: torch.Tensor, exact: torch.Tensor, eager: torch.Tensor) -> str:
    """Whether the errors are within the budget that eager's errors set, see lowering.budget."""
    verdict = within_budget(actual, exact, eager)
    if verdict:
        return f"within the error budget ({verdict.used:.0%} of it used)"
    return f"OVER THE ERROR BUDGET: {verdict}"


if __name__ == "__main__":
    main(*sys.argv[1:2])
