"""The report is the same in a second process, where the compiled graph comes from a cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = """
import json, sys
import torch, tile_backend
from torch import nn
import torch.nn.functional as F
from torch._dynamo.utils import counters

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.RMSNorm(64), nn.Linear(64, 128)
    def forward(self, x):
        gate, up = self.up(self.norm(x)).chunk(2, -1)
        return x + F.silu(gate) * up

model = Layer()
options = {"tilegym.kernels": "always"}
compiled = torch.compile(model, backend="tilegym", options=options, dynamic=True)
compiled(torch.randn(4, 64)).sum().backward()
hits = counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]
json.dump({"hits": hits, "report": tile_backend.last_report().to_json()}, sys.stdout)
"""


def run(folder: Path) -> dict[str, Any]:
    file = folder / "program.py"
    file.write_text(SCRIPT)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, str(file)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_warm_cache_gives_the_same_report(tmp_path: Path) -> None:
    cold, warm = run(tmp_path), run(tmp_path)
    assert cold["hits"] == 0
    assert warm["hits"] > 0
    assert warm["report"] == cold["report"]
    report = json.loads(cold["report"])
    assert report["counts"] == {"rms_norm": 1, "silu_mul": 1}
    assert all(site["source"].startswith("program.py:") for site in report["sites"])
