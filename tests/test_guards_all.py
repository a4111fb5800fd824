"""As test_guards, over everything small that there is: spellings, programs, 20 and more models.

The whole of it belongs to `make test-full`; `make test` runs a few of each, see CHOSEN.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tile_backend
from tests import core_material, remark_programs
from tests.guard_record import more
from tests.models import named, plain
from tests.models.inputs import CACHE, words
from tests.test_guards import ALWAYS, OPTIONS, of_tensors, sized_calls
from tile_backend.lowering.fusion import Fusion, Spelling

pytestmark = pytest.mark.filterwarnings("ignore")

DYNAMIC = (None, True)
SIZES = ((2, 12), (3, 12), (4, 15))
"""Batches and lengths of the calls of a model."""
PROGRAMS = {program.title: program for program in reversed(remark_programs.PROGRAMS)}
FIXED_BATCH = ("gpt_fast",)
"""Plain models whose cache is for one batch size."""
CHOSEN = (
    "a_norm-True",
    "the_input_is_written_to-True",
    "llama-padded-True-auto",
)
"""What `make test` runs of programs and models; the spellings it runs are in test_guards."""


def param(*values: Any) -> Any:
    """Of a test of everything."""
    title = "-".join(map(str, values))
    return pytest.param(*values, id=title, marks=() if title in CHOSEN else pytest.mark.full)


@pytest.mark.full
@pytest.mark.parametrize("gradient", (False, True), ids=("inference", "training"))
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("pair", core_material.spellings(), ids=core_material.title)
def test_spellings(
    pair: tuple[Fusion, Spelling],
    dynamic: bool | None,
    options: str,
    gradient: bool,
    graphs_only: None,
) -> None:
    for case in core_material.cases(*pair, torch.float32)[:1]:
        with torch.set_grad_enabled(gradient):
            calls = sized_calls(case, gradient)
            assert more(of_tensors(case), calls, OPTIONS[options], dynamic) == []


@pytest.mark.parametrize(
    ("name", "dynamic"), [param(*pair) for pair in itertools.product(PROGRAMS, DYNAMIC)]
)
def test_programs(name: str, dynamic: bool | None, graphs_only: None) -> None:
    program = PROGRAMS[name]
    model = remark_programs.Model(program.layer).to(program.dtype)
    width = remark_programs.WIDTH
    calls = [(torch.randn(b, n, width, dtype=program.dtype),) for b, n in ((2, 8), (3, 8), (4, 9))]
    with torch.no_grad():
        for options in OPTIONS.values():
            assert more(model, calls, options, dynamic) == []


@pytest.mark.parametrize(
    ("name", "dynamic"), [param(*pair) for pair in itertools.product(plain.NAMES, DYNAMIC)]
)
def test_plain_models(name: str, dynamic: bool | None, graphs_only: None) -> None:
    model, inputs = plain.build(name, torch.float32)
    other = shorter if name in FIXED_BATCH else grown
    calls = [tuple(other(t, n) for t in inputs) for n in (1, 2, 3)]
    with torch.no_grad():
        for options in OPTIONS.values():
            assert more(model, calls, options, dynamic) == []


def shorter(tensor: Tensor, tokens: int) -> Tensor:
    """Without the last tokens; each input has them in its last dimension."""
    return tensor[..., :-tokens]


def grown(tensor: Tensor, times: int) -> Tensor:
    """A batch that many times as large; what has no batch as it is."""
    return torch.cat([tensor] * times) if tensor.dim() > 1 else tensor


# --- models of Transformers -----------------------------------------------------------------------


def prefill(model: nn.Module) -> Callable[..., Any]:
    return lambda ids: model(input_ids=ids, use_cache=False).logits


def padded(model: nn.Module) -> Callable[..., Any]:
    def program(ids: Tensor) -> Any:
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    return program


def decode(model: nn.Module) -> Callable[..., Any]:
    return lambda ids, position, cache: (
        model(input_ids=ids, position_ids=position, past_key_values=cache, use_cache=True).logits
    )


def prompts(_model: nn.Module) -> list[tuple[Any, ...]]:
    return [(words(batch, length),) for batch, length in SIZES]


def marked(model: nn.Module) -> list[tuple[Any, ...]]:
    """With a batch that may be anything, as the user says."""
    calls = prompts(model)
    for (ids,) in calls:
        torch._dynamo.mark_dynamic(ids, 0)
    return calls


def steps(model: nn.Module) -> list[tuple[Any, ...]]:
    """One token for each row of a batch, whose static cache has a prompt in it."""
    import transformers

    found = []
    for batch in (2, 3, 4):
        cache = transformers.StaticCache(config=model.config, max_cache_len=CACHE)
        with torch.no_grad():
            model(input_ids=words(batch, 12), past_key_values=cache, use_cache=True)
        found.append((words(batch, 1), torch.full((batch, 1), 12), cache))
    return found


Calls = Callable[[nn.Module], list[tuple[Any, ...]]]
USES: Mapping[str, tuple[Callable[[nn.Module], Callable[..., Any]], Calls]] = {
    "prefill": (prefill, prompts),
    "padded": (padded, prompts),
    "marked": (prefill, marked),
    "decode": (decode, steps),
}


def models() -> Iterator[Any]:
    """Every model, each in one way with ops of ours and in one as on a CPU by default."""
    for number, name in enumerate(named.CONFIGURATIONS):
        for use, dynamic in (*((u, None) for u in USES), ("prefill", True), ("padded", True)):
            for options in OPTIONS:
                if options == "auto" or use == list(USES)[number % len(USES)] or dynamic:
                    yield param(name, use, dynamic, options)


@pytest.mark.parametrize(("name", "use", "dynamic", "options"), list(models()))
def test_models(name: str, use: str, dynamic: bool | None, options: str, graphs_only: None) -> None:
    program, calls_of = USES[use]
    model = named.build(name)
    with torch.no_grad():
        assert more(program(model), calls_of(model), OPTIONS[options], dynamic) == []
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts, "nothing was found in it"


@pytest.mark.full
@pytest.mark.parametrize("name", ("llama", "gemma2"))
@pytest.mark.parametrize("options", OPTIONS)
def test_models_with_generated_code(name: str, options: str) -> None:
    """Inductor asks about sizes of its own when it generates code."""
    model = named.build(name)
    with torch.no_grad():
        calls = prompts(model)
        assert more(prefill(model), calls, OPTIONS[options], True, codegen=True) == []
        assert more(prefill(model), calls, OPTIONS[options], None, codegen=True) == []


@pytest.mark.full
@pytest.mark.parametrize("name", ("llama", "gpt_neox"))
def test_models_in_training(name: str, graphs_only: None) -> None:
    model = named.build(name).train()

    def loss(ids: Tensor) -> Any:
        return model(input_ids=ids, labels=ids, use_cache=False).loss

    for dynamic in DYNAMIC:
        assert more(loss, prompts(model), ALWAYS, dynamic) == []
