"""TORCH_TRACE holds the report and the diff of each graph, where tlparse finds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch
from tile_backend.inductor import without_codegen
with without_codegen():
    torch.compile(torch.nn.RMSNorm(8), backend="tilegym")(torch.randn(2, 8))
"""


def test_report_and_diff_are_artifacts(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"TORCH_TRACE": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    (log,) = tmp_path.glob("*.log")
    lines = log.read_text(encoding="utf-8").splitlines()
    names = [i for i, line in enumerate(lines) if '"name": "tilegym_' in line]
    kinds = [json.loads(lines[i][lines[i].index("{") :])["artifact"] for i in names]
    assert kinds == [
        {"name": "tilegym_report", "encoding": "json"},
        {"name": "tilegym_diff", "encoding": "string"},
    ]
    report = json.loads(payload(lines, names[0]))
    assert report["counts"] == {"rms_norm": 1}
    assert "rms_norm" in payload(lines, names[1])


def payload(lines: list[str], header: int) -> str:
    """The lines below a header, which the trace indents by a tab."""
    found = []
    for line in lines[header + 1 :]:
        if not line.startswith("\t"):
            break
        found.append(line[1:])
    return "\n".join(found)
