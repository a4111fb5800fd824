"""A site says which kernel it launches and how, and the report has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tile_backend
from tests.json_schema import violations
from tests.tuning_entries import configuration
from tile_backend.lowering import tuning_store
from tile_backend.lowering.tuning_entry import Kind

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(64)
        self.qkv = nn.Linear(64, 192)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> tile_backend.Report:
    monkeypatch.setenv("TILEGYM_KERNELS", "interpret")
    return tile_backend.explain(Block(), torch.randn(2, 16, 64))


def test_kernel_source_grid_and_constants(interpreted: tile_backend.Report) -> None:
    norm, attention = interpreted.sites
    (use,) = norm.kernels
    assert (use.op, use.kernel, use.arch) == ("rms_norm", "rms_norm", "sm_90")
    assert use.constants["N"] == 64
    assert use.grid[0] * int(str(use.constants["ROWS"])) >= 2 * 16
    assert str(use).startswith(f"rms_norm ({use.source}) grid {use.grid[0]}x1x1 ")
    assert [use.op for use in attention.kernels] == ["attention"]
    for site in interpreted.sites:
        for use in site.kernels:
            path, line = use.source.split(":")
            text = (ROOT / path).read_text().splitlines()[int(line) - 1]
            assert text.startswith(f"def {use.kernel}("), use.source


def test_the_report_has_them(interpreted: tile_backend.Report, tmp_path: Path) -> None:
    content = json.loads(interpreted.to_json())
    assert list(violations(content, SCHEMA, SCHEMA, "report")) == []
    (kernel,) = content["sites"][0]["kernels"]
    assert kernel["grid"] == list(interpreted.sites[0].kernels[0].grid)
    interpreted.save(tmp_path)
    (diff,) = tmp_path.glob("*_rms_norm__norm/diff.txt")
    assert f"{interpreted.sites[0].kernels[0]}" in diff.read_text()


def test_plain_pytorch_launches_nothing() -> None:
    report = tile_backend.explain(Block(), torch.randn(2, 16, 64))
    assert [site.kernels for site in report.sites] == [(), ()]


def test_decoding_in_two_steps_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_KERNELS", "interpret")

    def decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    q, k = torch.randn(1, 4, 1, 64), torch.randn(1, 4, 4096, 64)
    (site,) = tile_backend.explain(decode, q, k, k).sites
    assert [use.op for use in site.kernels] == ["attention_split", "attention_join"]


def test_a_measured_configuration_is_said(tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind("rms_norm x=f32[64] weight=f32[64] rounding=once", {"rows": 32})
    tuning_store.record("sm_90", [configuration(kind, "rows=8,block=64,warps=8,occupancy=4")])
    monkeypatch.setenv("TILEGYM_KERNELS", "interpret")
    report = tile_backend.explain(Block(), torch.randn(2, 16, 64))
    norm, attention = report.sites
    assert norm.kernels[0].measured == "rows=8,block=64,warps=8,occupancy=4"
    assert str(norm.kernels[0]).endswith("(measured fastest)")
    assert attention.kernels[0].measured == ""
    assert list(violations(json.loads(report.to_json()), SCHEMA, SCHEMA, "report")) == []
