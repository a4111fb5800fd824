"""Coverage of all causal-LM types, or those named: `python -m tests.coverage [TYPE ...]`.

With no types named, writes docs/coverage.md and docs/coverage.json; exits with 1 where an output
differs. With types named, prints their tables only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import transformers

from tests.coverage import table
from tests.coverage.pool import probe_all
from tile_backend.tiny_model import model_types

ROOT = Path(__file__).parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.coverage")
    parser.add_argument("types", nargs="*", help="model types; all of them without")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an earlier run")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    """The exit status: 1 where an output differs or a run failed."""
    options = arguments()
    start = time.perf_counter()
    rows = probe_all(
        options.types or model_types(), ROOT / ".cache/coverage", options.processes, options.resume
    )
    seconds = time.perf_counter() - start
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    took = (
        "resumed, so not timed"
        if options.resume
        else f"{seconds:.0f} s with {options.processes} processes"
    )
    text = table.markdown(rows, versions, took)
    if options.types:
        print(text)
    else:
        (ROOT / "docs/coverage.md").write_text(text, encoding="utf-8")
        content = {"versions": versions, "took": took, "rows": rows}
        (ROOT / "docs/coverage.json").write_text(
            json.dumps(content, indent=1) + "\n", encoding="utf-8"
        )
        print("\n".join(table.totals([row for row in rows if row["status"] == "built"])))
    return int(any(failed(row) for row in rows))


def failed(row: table.Row) -> bool:
    """A type that cannot be built is no failure of ours; one that does not finish may be."""
    if row["status"] == "built":
        return bool(row.get("difference") or row.get("error"))
    return bool(row["status"] == "stopped")


if __name__ == "__main__":
    sys.exit(main())
