"""`make demo` from its first line to its last, up to code generation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tile_backend import demo
from tile_backend.inductor import without_codegen


@pytest.mark.filterwarnings("ignore")
def test_the_demo_shows_both_models_and_writes_their_dumps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "TOKENS", 64)
    with without_codegen():
        demo.main(str(tmp_path))
    shown = capsys.readouterr().out
    assert shown.count("output: within the error budget") == len(demo.TYPES)
    forced = "with every op put in (tilegym.kernels=always): within the error budget"
    assert shown.count(forced) == len(demo.TYPES)
    assert "tilegym: 11 sites fused" in shown
    assert re.search(
        r"prefill of 64 tokens, measured now: \d+ ms with inductor, \d+ ms with tilegym,", shown
    )
    for name in demo.TYPES:
        assert f"dump: {tmp_path / name}/index.html" in shown
        assert (tmp_path / name / "index.html").is_file()
