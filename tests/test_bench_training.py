"""The bench of training: programs and judges, a model's steps, Liger's patches, rows and text."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import fresh_process, training, training_models, training_programs
from bench.training_models import Case, Trained
from bench.training_programs import Program, judge, outcome, slopes_of
from bench.training_table import report
from bench.versions import Found, UnavailableError
from tile_backend.lowering.budget import Measured, Verdict

SIZES = {8192: 12, 4096: 16, 14336: 24, 128256: 40, 32: 4, 8: 2, 128: 8}


def smaller(program: Program) -> Program:
    shapes = {n: tuple(SIZES.get(size, size) for size in s) for n, s in program.shapes.items()}
    return dataclasses.replace(program, shapes=shapes, labels=dict.fromkeys(program.labels, 40))


PROGRAMS = {program.title: smaller(program) for program in training_programs.programs("cuda")}
TINY = Case(
    "tiny",
    "llama",
    {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    length=12,
    dtype=torch.float32,
)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch, graphs_only: None, tmp_path: Path) -> list[Any]:
    """No code is generated and no process started; what would have been asked of one."""
    asked: list[Any] = []

    def call(*arguments: Any, cache: str) -> float:
        asked.append(arguments)
        return 12.5

    def eager_for_inductor(makers: Any, device: str) -> Any:
        found = makers(device)
        return {**found, "inductor": functools.partial(found["inductor"], backend="eager")}

    monkeypatch.setattr(fresh_process, "call", call)
    for module in (training_programs, training_models):
        makers = functools.partial(eager_for_inductor, module.makers)
        monkeypatch.setattr(module, "makers", makers)
    monkeypatch.setattr(training_programs, "programs", lambda _: [PROGRAMS["silu_mul"]])
    monkeypatch.setattr(training_models, "cases", lambda _: [TINY])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # the bench sets it
    return asked


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_is_within_its_budget_and_a_wrong_one_is_not(program: Program) -> None:
    inputs = program.inputs("cpu")
    slopes = slopes_of(program, inputs)
    verdict = judge(program, inputs, slopes)
    results = outcome(program.function, inputs, slopes)
    assert verdict(results)
    assert len(results) > sum(x.requires_grad for x in inputs)
    for index in range(len(results)):
        wrong = list(results)
        wrong[index] = wrong[index] + 1
        assert not verdict(wrong)


def test_every_label_is_a_class_or_ignored() -> None:
    _, labels = PROGRAMS["cross_entropy"].inputs("cpu")
    assert set(labels.unique().tolist()) <= {*range(40), training_programs.IGNORED}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_ligers_functions_get_what_they_take(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the program's tensors, then an epsilon."""
    called: list[Any] = []

    class Functional:
        def __getattr__(self, name: str) -> Any:
            return lambda *given: called.append((name, given))

    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", Functional())
    inputs = program.inputs("cpu")
    training_programs.by_liger(program)(*inputs)
    ((name, given),) = called
    assert name.startswith("liger_")
    assert all(a is b for a, b in zip(given, inputs, strict=False))
    assert len(given) in (len(inputs), len(inputs) + 1)


def test_without_liger_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("liger_kernel.transformers", "liger_kernel.transformers.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match="Liger cannot be used: import of liger_kernel"):
        training_programs.by_liger(PROGRAMS["rms_norm"])
    with pytest.raises(UnavailableError, match="Liger cannot be used"):
        training_models.with_liger(TINY.model("cpu"))


def test_ligers_patches_are_in_place_in_its_own_steps_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.llama import modeling_llama

    own, seen = modeling_llama.apply_rotary_pos_emb, []

    def theirs(*given: Any) -> Any:
        seen.append("liger")
        return own(*given)

    def apply(model: Any) -> None:
        modeling_llama.apply_rotary_pos_emb = theirs
        modeling_llama.added = theirs

    package = types.SimpleNamespace(_apply_liger_kernel_to_instance=apply)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    monkeypatch.setattr(training_models, "compiled", lambda model, _: Trained(model, model))
    model = TINY.model("cpu")
    patched = training_models.with_liger(model)
    tokens = TINY.tokens("cpu")
    assert modeling_llama.apply_rotary_pos_emb is own
    training_models.eager(model).loss(tokens)
    assert seen == []
    patched.loss(tokens)
    assert seen == ["liger"]
    assert modeling_llama.apply_rotary_pos_emb is own
    assert not hasattr(modeling_llama, "added")


def test_a_step_trains() -> None:
    trained = training_models.eager(TINY.model("cpu"))
    step = trained.step(TINY.tokens("cpu"))
    (first,), (second,) = step(), step()
    assert second < first
    assert all(p.grad is None for p in trained.model.parameters())


def test_a_model_whose_gradients_are_wrong_is_void() -> None:
    verdict = training_models.judge(TINY, "cpu")
    model = TINY.model("cpu")
    assert verdict(training_models.eager(model))

    def by_a_hundredth(**given: Any) -> Any:
        return types.SimpleNamespace(loss=1.01 * model(**given).loss)

    assert not verdict(Trained(model, by_a_hundredth))


def test_rows_from_end_to_end(
    cheap: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["training", "--rounds", "2", "--no-save"])
    kept: list[Any] = []
    monkeypatch.setattr(training, "report", lambda rows: kept.extend(rows) or report(rows))
    training.main()
    program, model = kept
    assert program["ran"] == {"silu_mul: reference": "1"}
    assert list(program["over_tilegym"]) == ["inductor", "again"]
    assert all(program["correct"].values())
    assert {"inductor", "eager", "again"} <= set(model["over_tilegym"])
    assert model["void"] == {}
    assert model["tokens_per_s"]["tilegym"] > 0
    assert ("bench.training", "cpu_peak_mib", "tiny", "inductor") in cheap
    assert "tiny" in capsys.readouterr().out.splitlines()[-1]


def test_memory_of_a_step_is_measured_in_this_process(cheap: list[Any]) -> None:
    assert training.cpu_peak_mib("tiny", "eager") >= 0


def test_no_case_of_that_title_is_an_error(
    cheap: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["training", "--only", "other*"])
    with pytest.raises(SystemExit, match="no case is called other"):
        training.main()


def test_the_text_has_ratios_and_reasons() -> None:
    good, bad = Verdict((Measured(1.0, 2.0),)), Verdict((Measured(3.0, 2.0),))
    found = Found(
        times={"tilegym": [100.0, 200.0], "inductor": [150.0, 500.0], "eager": [1.0, 1.0]},
        verdicts={"tilegym": good, "inductor": good, "eager": bad},
        peaks={"tilegym": 8.04, "inductor": 9.0},
        not_run={"liger": "UnavailableError: not installed"},
    )
    rows: list[Mapping[str, Any]] = [training.model_row(TINY, found)]
    header, line, *notes = report(rows).splitlines()
    assert header.split()[4:] == ["inductor", "eager", "liger", *"MiB no logits inductor".split()]
    assert line.split() == ["tiny", "0.15", "80000", "2.00", "void", "-", "8.0", "9.0"]
    assert notes == [
        f"void: eager of tiny: {bad}",
        "not run: liger of tiny: UnavailableError: not installed",
    ]
