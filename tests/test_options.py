"""Options: every value, every source, their precedence, and the words of each refusal."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tile_backend import errors, scope
from tile_backend.option_sources import check_inductor_keys
from tile_backend.options import Options, option_infos, options_table

KNOWN = ("add_rms_norm", "attention", "rms_norm", "rotary")


def parse(options: dict[str, Any] | None = None, **environ: str) -> Options:
    return Options.parse(options, environ, scope.active(), lambda: KNOWN)[0]


def test_defaults_allow_everything_and_raise_nothing() -> None:
    options = parse()
    assert options == Options()
    assert options.allows("rms_norm", "model.norm")
    assert options.allows("rms_norm", "")
    assert (options.kernels, options.strict, options.disabled) == ("auto", "off", False)


def test_the_built_in_fusions_are_known_without_asking() -> None:
    options, _ = Options.parse({"tilegym.fusions": ["silu_mul", "rotary"]}, {})
    assert options.fusions == ("rotary", "silu_mul")


def test_other_keys_are_left_to_inductor() -> None:
    options, theirs = Options.parse({"epilogue_fusion": True, "tilegym.kernels": "never"}, {})
    assert theirs == {"epilogue_fusion": True}
    assert options.kernels == "never"


def test_mode_is_accepted_among_the_options() -> None:
    options, theirs = Options.parse({"mode": "reduce-overhead"}, {})
    assert (options.mode, theirs) == ("reduce-overhead", {})
    with pytest.raises(errors.BadOptionValue, match="bad value 3 for mode"):
        parse({"mode": 3})


@pytest.mark.parametrize(
    ("options", "words"),
    (
        (
            {"tilegym.kernals": "auto"},
            "'tilegym.kernals': the nearest known option is 'tilegym.kernels'",
        ),
        ({"tilegym.report_folder": "x"}, "nearest known option is 'tilegym.report_dir'"),
        (
            {"tilegym.kernels": "sometimes"},
            "'sometimes' for tilegym.kernels: allowed is 'auto', 'always', 'never', 'interpret'",
        ),
        (
            {"tilegym.strict": True},
            "True for tilegym.strict: allowed is 'off', 'expect', 'no-fallback'",
        ),
        (
            {"tilegym.fusions": "attention"},
            "allowed is 'all', or a list of fusion names; write ['attention'] for one",
        ),
        (
            {"tilegym.fusions": ["atention"]},
            "unknown fusion 'atention' in tilegym.fusions: the nearest known one is 'attention'",
        ),
        ({"tilegym.include": {"rms_nrm": ["a"]}}, "unknown fusion 'rms_nrm' in tilegym.include"),
        ({"tilegym.exclude": {"rotery": ["a"]}}, "unknown fusion 'rotery' in tilegym.exclude"),
        ({"tilegym.include": "model.*"}, "a list of module globs, or a dict"),
        ({"tilegym.include": ["model..mlp"]}, "globs without empty components"),
        ({"tilegym.expect": {"rms_norm": "4"}}, "a dict from fusion name to a count"),
        ({"tilegym.expect": {"rms_norm": True}}, "a dict from fusion name to a count"),
        ({"tilegym.expect": {"rms_norm": -1}}, "a dict from fusion name to a count"),
        ({"tilegym.expect": {"rmsnorm": 4}}, "unknown fusion 'rmsnorm' in tilegym.expect"),
        ({"tilegym.report_dir": 3}, "None, or the path of a folder"),
        (
            {"tilegym.remarks": "missed"},
            "'missed' for tilegym.remarks: allowed is kind[:fusion][@module-glob]",
        ),
        ({"tilegym.remarks": ["fused"]}, "['fused'] for tilegym.remarks"),
        ({"tilegym.drop_logits": "yes"}, "'yes' for tilegym.drop_logits: allowed is True, False"),
    ),
)
def test_what_is_wrong_is_named_with_what_is_right(options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.TileBackendError) as caught:
        parse(options)
    assert words in str(caught.value)


def test_every_option_has_an_environment_twin() -> None:
    options = parse(
        TILEGYM_FUSIONS='["rotary", "attention"]',
        TILEGYM_INCLUDE='{"attention": ["model.layers.*"]}',
        TILEGYM_EXCLUDE='["model.layers.0"]',
        TILEGYM_KERNELS="never",
        TILEGYM_STRICT="expect",
        TILEGYM_EXPECT='{"attention": 2}',
        TILEGYM_VERIFY="always",
        TILEGYM_NUMERICS="bitwise",
        TILEGYM_REPORT_DIR="dump",
        TILEGYM_REMARKS="declined",
        TILEGYM_TUNE="off",
        TILEGYM_DROP_LOGITS="0",
    )
    assert options == Options(
        fusions=("attention", "rotary"),
        include=(("attention", ("model.layers.*",)),),
        exclude=(("*", ("model.layers.0",)),),
        kernels="never",
        strict="expect",
        expect=(("attention", 2),),
        verify="always",
        numerics="bitwise",
        report_dir="dump",
        remarks="declined",
    )
    assert len(option_infos()) == 12


@pytest.mark.parametrize(
    ("environ", "words"),
    (
        ({"TILEGYM_FUSIONS": "[rotary]"}, "'[rotary]' for TILEGYM_FUSIONS: allowed is valid JSON"),
        (
            {"TILEGYM_FUSIONS": "rotary"},
            "'rotary' for TILEGYM_FUSIONS: allowed is 'all', or a list",
        ),
        ({"TILEGYM_DROP_LOGITS": "maybe"}, "'maybe' for TILEGYM_DROP_LOGITS: allowed is 1 or 0"),
        ({"TILEGYM_DISABLE": "please"}, "'please' for TILEGYM_DISABLE: allowed is 1 or 0"),
    ),
)
def test_bad_environment_names_the_variable(environ: dict[str, str], words: str) -> None:
    with pytest.raises(errors.BadOptionValue) as caught:
        parse(**environ)
    assert words in str(caught.value)


def test_a_mistyped_variable_warns_and_a_foreign_one_does_not() -> None:
    with pytest.warns(
        errors.UnknownEnvironment, match="TILEGYM_KERNALS .* did you mean TILEGYM_KERNELS"
    ):
        parse(TILEGYM_KERNALS="never")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse(TILEGYM_BENCHMARK_FLOPS="1", TILEGYM_KERNELS="")


def test_precedence() -> None:
    assert parse(TILEGYM_FUSIONS='["rotary"]').fusions == ("rotary",)
    assert parse({"tilegym.fusions": "all"}, TILEGYM_FUSIONS='["rotary"]').fusions == "all"
    with scope.fusions(disable="rotary"):
        assert parse().fusions == ("add_rms_norm", "attention", "rms_norm")
        assert parse(TILEGYM_FUSIONS='["rotary", "rms_norm"]').fusions == ("rms_norm",)
        assert parse({"tilegym.fusions": ["rotary"]}).fusions == ("rotary",)


def test_disable_wins_over_everything_even_over_mistakes() -> None:
    options, theirs = Options.parse(
        {"tilegym.kernels": "nonsense", "epilogue_fusion": True, "mode": "default"},
        {"TILEGYM_DISABLE": "1", "TILEGYM_STRICT": "nonsense"},
    )
    assert options == Options(disabled=True, mode="default")
    assert theirs == {"epilogue_fusion": True}


@pytest.mark.parametrize(
    ("include", "exclude", "allowed", "refused"),
    (
        (
            ["model.layers.*.mlp"],
            [],
            ["model.layers.0.mlp", "model.layers.7.mlp.act_fn"],
            ["", "model.layers.0", "model.layers.0.mlp2", "model.norm"],
        ),
        (["model.layers"], [], ["model.layers.0.mlp"], ["model.norm"]),
        (["model.*"], [], ["model.norm", "model.layers.0.mlp"], ["model", "lm_head"]),
        ([], ["model.layers.[01]"], ["model.layers.2.mlp", ""], ["model.layers.1.mlp"]),
        (["*"], ["model.norm"], ["", "lm_head", "model.layers.0"], ["model.norm"]),
        ({"rms_norm": ["model.norm"]}, {}, ["model.norm"], ["model.layers.0.input_layernorm"]),
        ({"rotary": ["model.norm"]}, {"attention": ["*"]}, ["model.norm", "anything"], []),
        ({"rotary": ["a"]}, {"rms_norm": ["b"]}, ["a", "c"], ["b.c"]),
    ),
)
def test_include_and_exclude(
    include: Any, exclude: Any, allowed: list[str], refused: list[str]
) -> None:
    options = parse({"tilegym.include": include, "tilegym.exclude": exclude})
    assert [path for path in allowed + refused if options.allows("rms_norm", path)] == allowed


def test_a_fusion_that_is_not_chosen_is_allowed_nowhere() -> None:
    options = parse({"tilegym.fusions": ["rotary"]})
    assert options.allows("rotary", "anywhere")
    assert not options.allows("rms_norm", "anywhere")


def test_a_glob_that_matches_nothing_is_named_with_the_paths_seen() -> None:
    options = parse(
        {"tilegym.include": ["model.layers.*", "layers.*"], "tilegym.exclude": ["norm"]}
    )
    paths = [f"model.layers.{i}.mlp" for i in range(4)] + ["model.norm", ""]
    assert options.unmatched_globs(paths) == ("layers.*", "norm")
    with pytest.warns(errors.UnmatchedGlob) as caught:
        options.warn_unmatched_globs(paths)
    assert [str(w.message) for w in caught] == [
        f"{key}: the glob {glob!r} matches no module of this graph. A glob is relative to the "
        "compiled module and a prefix covers its subtree. Modules seen: "
        "model.layers.{0..3}.mlp, model.norm."
        for key, glob in (("tilegym.include", "layers.*"), ("tilegym.exclude", "norm"))
    ]


def test_identity_covers_what_affects_code_and_nothing_else() -> None:
    same = {
        "tilegym.report_dir": "x",
        "tilegym.remarks": "fused",
        "tilegym.strict": "expect",
        "tilegym.expect": {"rotary": 1},
    }
    assert parse(same).identity() == Options().identity()
    other = [
        parse({"tilegym.fusions": ["rotary"]}),
        parse({"tilegym.include": ["a"]}),
        parse({"tilegym.exclude": ["a"]}),
        parse({"tilegym.kernels": "never"}),
    ]
    assert len({options.identity() for options in (Options(), *other)}) == 5
    assert (
        parse({"tilegym.include": ["b", "a"]}).identity()
        == parse({"tilegym.include": ["a", "b"]}).identity()
    )
    json.loads(Options().identity())


def test_options_are_hashable() -> None:
    options = parse({"tilegym.include": {"rotary": ["a"]}, "tilegym.expect": {"rotary": 1}})
    assert hash(options) == hash(dataclasses.replace(options))
    assert options.expected_counts == {"rotary": 1}


def test_an_unknown_inductor_key_names_the_nearest_of_both() -> None:
    check_inductor_keys(["epilogue-fusion"], ["epilogue_fusion"], option_infos())
    with pytest.raises(errors.UnknownOption, match="nearest known option is 'epilogue_fusion'"):
        check_inductor_keys(["epilog_fusion"], ["epilogue_fusion"], option_infos())
    with pytest.raises(errors.UnknownOption, match=r"option is 'tilegym\.kernels'"):
        check_inductor_keys(["tilegymkernels"], ["epilogue_fusion"], option_infos())


def test_the_documented_table_is_the_generated_one() -> None:
    document = Path(__file__).parents[1] / "docs" / "options.md"
    assert options_table() in document.read_text()


def test_importing_options_imports_neither_torch_nor_patterns() -> None:
    code = "import sys, tile_backend.options; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
