"""A process of its own that asks for the decisions on a tiny Llama, for test_choice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import tile_backend
from tests.simulated_gpu import losing, simulated
from tile_backend import inductor, tiny_model


def main() -> None:
    """Print what was decided, and what was measured for it."""
    torch.manual_seed(0)
    llama, ids = tiny_model.tiny_model("llama").eval(), tiny_model.tokens(2, 16)
    with (
        pytest.MonkeyPatch.context() as patch,
        simulated(patch, Path(sys.argv[1]), losing()) as clock,
        inductor.without_codegen(),
        torch.no_grad(),
    ):
        explained = tile_backend.explain(llama, ids, use_cache=False).to_json()
        options = {"tilegym.tune": "on"}
        torch.compile(llama, backend="tilegym", options=options)(ids, use_cache=False)
    report = tile_backend.last_report()
    assert report is not None
    decisions = [str(site.decision) for site in report.fused]
    json.dump({"asked": clock.asked, "decisions": decisions, "json": explained}, sys.stdout)


if __name__ == "__main__":
    main()
