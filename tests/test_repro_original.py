"""The repro.py of what was not fused: its ops run alone, and are found to be the same again."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tile_backend
from tests.core_material import cases, near_misses, title
from tile_backend.lowering.site import Site
from tile_backend.original_ops import Original
from tile_backend.report import Report
from tile_backend.repro_script import script
from tile_backend.rewrite_entry import entries


def originals(report: Report) -> list[tuple[Site, Original]]:
    """Of the sites that were not fused, what their scripts make."""
    found = []
    for entry in entries(report):
        text = script(entry)
        if entry.group.first.status != "fused" and text is not None:
            found.append((entry.group.first, imported(text)))
    return found


def imported(text: str) -> Original:
    """A script as a module, which torch 2.11 looks for when it captures a function of it."""
    torch.compiler.reset()  # to Dynamo, all of them are the same line of the same file
    module = sys.modules["repro"] = types.ModuleType("repro")
    exec(compile(text, "repro.py", "exec"), vars(module))
    original = module.ORIGINAL
    assert isinstance(original, Original)
    return original


def found_again(site: Site, original: Original) -> bool:
    """Words may name a line of the file, which is another one."""
    report = tile_backend.explain(original.function, *original.arguments.values())
    said = [(s.fusion, s.status, s.reason and s.reason.kind) for s in report.sites]
    return (site.fusion, site.status, site.reason and site.reason.kind) in said


NOT_REPORTED = {"linear_cross_entropy", "layer_norm"}
"""Found as near misses of cross_entropy, and of nothing: no op says that a layer norm was meant."""
NAMES = sorted({fusion.name for fusion, _ in near_misses()} - NOT_REPORTED)


@pytest.mark.parametrize("name", NAMES)
def test_a_near_miss_cut_out_of_its_graph_is_one_again(name: str) -> None:
    found = 0
    for fusion, spelling in near_misses():
        if fusion.name != name:
            continue
        case = cases(fusion, spelling, torch.float32)[0]
        report = tile_backend.explain(case.function, **case.inputs())
        for site, original in originals(report):
            found += 1
            assert found_again(site, original), title((fusion, spelling))
    assert found


class Attends(nn.Module):
    """Attention with dropout: declined; and an RMSNorm with epsilon outside: a near miss."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))
        self.mix = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6))
        q, k, v = self.mix(normed).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)


@pytest.fixture(scope="module")
def report() -> Report:
    return tile_backend.explain(Attends(), torch.randn(2, 4, 16))


def test_only_the_ops_of_the_site_are_cut_out(report: Report) -> None:
    sites = {site.fusion: site.snippet for site in report.sites}
    assert {name: list(s.inputs) for name, s in sites.items() if s} == {
        "rms_norm": ["l_x_", "self_weight"],
        "attention": ["q", "k", "v"],
    }


def test_a_declined_site_is_declined_again(report: Report) -> None:
    (found,) = [(s, o) for s, o in originals(report) if s.status == "declined"]
    assert found_again(*found)


def test_the_script_runs_and_says_what_was_found(report: Report, tmp_path: Path) -> None:
    folder = report.save(tmp_path)
    (file,) = folder.glob("*near-miss_rms_norm*/repro.py")
    run = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "near miss  rms_norm  (root)  repro.py:" in run.stdout
    assert "epsilon is added after the root. fix: add it to the mean of squares" in run.stdout
    assert run.stdout.splitlines()[-1].startswith("eager ")
    assert " us, compiled " in run.stdout.splitlines()[-1]


def test_an_edit_is_seen(report: Report) -> None:
    """What the script is for: moved inside the root, epsilon is no obstacle any more."""
    (site,) = report.having("near-miss")
    text = script(entries(report)[-1])
    assert text is not None
    assert site.snippet is not None
    edited = text.replace("sqrt = mean.sqrt()", "sqrt = (mean + 1e-6).sqrt()")
    edited = edited.replace("add = sqrt + 1e-06", "add = sqrt")
    assert imported(edited).explain().startswith("tilegym: 1 site fused, 0 declined, 0 near")


def test_values_that_others_read_are_returned() -> None:
    """Otherwise a site that was declined because of them would not be so alone."""

    def program(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return weight * (x * scale), scale

    report = tile_backend.explain(program, torch.randn(2, 16), torch.ones(16))
    found = [(s, o) for s, o in originals(report) if s.status == "declined"]
    assert [s.reason.kind.value for s, _ in found if s.reason] == ["interior_value_escapes"]
    assert all(found_again(site, original) for site, original in found)


def test_numbers_and_dynamic_sizes_are_inputs_as_seen() -> None:
    def program(x: Tensor, weight: Tensor) -> Tensor:
        unit = x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6)
        return weight * unit.reshape(x.shape[0], 16)

    x = torch.randn(6, 16)
    torch._dynamo.mark_dynamic(x, 0)
    report = tile_backend.explain(program, x, torch.ones(16))
    ((_, original),) = originals(report)
    tensors = [a for a in original.arguments.values() if isinstance(a, Tensor)]
    assert (6, 16) in [tuple(tensor.shape) for tensor in tensors]
    original.function(*original.arguments.values())


def test_what_cannot_be_written_out_has_no_script() -> None:
    """A higher-order op takes graphs."""
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.randn(1, 2, 16, 16)
    report = tile_backend.explain(flex_attention, q, q, q)
    assert [(s.status, s.snippet) for s in report.sites] == [("declined", None)]
    assert originals(report) == []
