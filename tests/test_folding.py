"""Folding of module paths: the words, and that unfolding gives the same paths back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tile_backend.folding import fold, fold_to_text, template, unfold

LAYERS = [f"model.layers.{i}.mlp" for i in range(32)]


@pytest.mark.parametrize(
    ("paths", "folded"),
    (
        ([], []),
        (["model.norm"], ["model.norm"]),
        (LAYERS, ["model.layers.{0..31}.mlp"]),
        ([LAYERS[0], LAYERS[31]], ["model.layers.{0,31}.mlp"]),
        ([LAYERS[0], LAYERS[1]], ["model.layers.{0..1}.mlp"]),
        ([*LAYERS[:4], LAYERS[7]], ["model.layers.{0..3,7}.mlp"]),
        ([LAYERS[10], LAYERS[9], LAYERS[9]], ["model.layers.{9..10}.mlp"]),
        ([LAYERS[3]], ["model.layers.3.mlp"]),
        (["layers.1.a", "layers.1.b"], ["layers.1.a", "layers.1.b"]),
        (["h.0", "h.1", ""], ["", "h.{0..1}"]),
        (["h.00", "h.1"], ["h.00", "h.1"]),
        (
            [f"layers.{i}.experts.{j}" for i in (0, 1) for j in (0, 1, 2)],
            ["layers.{0..1}.experts.{0..2}"],
        ),
        (
            ["layers.0.experts.0", "layers.0.experts.1", "layers.1.experts.0"],
            ["layers.0.experts.{0..1}", "layers.1.experts.0"],
        ),
    ),
)
def test_fold(paths: list[str], folded: list[str]) -> None:
    assert sorted(fold(paths)) == sorted(folded)


def test_folded_paths_come_in_natural_order() -> None:
    assert fold(["a.10.x", "a.2.y", "a.2.x", "b.1"]) == ["a.{2,10}.x", "a.2.y", "b.1"]
    assert fold(["a.10.x", "a.9.y"]) == ["a.9.y", "a.10.x"]


def test_the_root_has_a_name_in_text() -> None:
    assert fold_to_text(["", "mlp"]) == "(root), mlp"


def test_template_names_a_family_of_layers() -> None:
    assert template("model.layers.12.mlp.experts.3") == "model.layers.N.mlp.experts.N"


component = st.sampled_from(["0", "1", "2", "3", "10", "mlp", "layers", "07"])
paths = st.lists(st.lists(component, min_size=1, max_size=4).map(".".join), unique=True)


@given(paths)
def test_unfold_is_the_inverse_of_fold(paths: list[str]) -> None:
    unfolded = [path for folded in fold(paths) for path in unfold(folded)]
    assert sorted(unfolded) == sorted(paths)
