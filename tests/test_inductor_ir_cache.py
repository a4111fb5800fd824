"""Compiled graphs with our ops outlive the process: both compile caches hit in a second one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = """
import json, sys, torch
from torch._dynamo.utils import counters
from tile_backend.lowering import inductor_ir, kernel_launch
from tile_backend.patterns import all_fusions

inductor_ir.install(all_fusions())
launched = []
original = kernel_launch.Calls.launched
kernel_launch.Calls.launched = lambda *args: (launched.append(1), original(*args))[1]

def function(x, weight):
    normed, total = torch.ops.tilegym.add_rms_norm(x, x, weight, 1e-6)
    return torch.ops.tilegym.softmax(normed), total

torch.manual_seed(0)
x, weight = torch.randn(8, 64), torch.ones(64)
with inductor_ir.force_direct_launch():
    result = torch.compile(function)(x, weight)
torch.testing.assert_close(result, function(x, weight))
print(json.dumps({
    "graph": counters["inductor"]["fxgraph_cache_hit"],
    "missed": counters["inductor"]["fxgraph_cache_miss"],
    "launches": len(launched),
    "autograd": counters["aot_autograd"]["autograd_cache_hit"],
}))
"""


def run(folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_second_process_hits_both_caches(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first["graph"] == 0
    assert first["missed"] > 0
    second = run(tmp_path)
    assert second["missed"] == 0
    assert second["launches"] == first["launches"] == 2
    assert second["autograd"] > 0
