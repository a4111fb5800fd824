"""Training loops of others: Transformers' Trainer, and `accelerate`, told to use our backend.

Both with every site rewritten, by the environment, since the Trainer has no options for a backend.
The losses of all steps and the parameters are held against the same loop uncompiled, and in
float64.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DynamoBackend

import tile_backend
from tests.training import prose
from tests.training.loops import ADAM, assert_parameters, assert_sites, llama
from tile_backend import accelerate
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 4


@pytest.fixture(autouse=True)
def every_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    accelerate.register()
    torch._dynamo.reset()
    with without_codegen():
        yield
    torch._dynamo.reset()


def examples() -> list[dict[str, torch.Tensor]]:
    """Two for each step, in the order in which they are read."""
    rows = prose.batches(0, STEPS, 2, 24).flatten(0, 1)
    return [{"input_ids": row, "labels": row} for row in rows]


class InOrder(transformers.Trainer):
    """Reads the examples as they stand, so that all runs see the same batches."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trained(model: torch.nn.Module, folder: Path, **settings: Any) -> torch.Tensor:
    """The loss of every step."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=STEPS,
        learning_rate=ADAM["lr"],
        adam_epsilon=ADAM["eps"],
        lr_scheduler_type="constant",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        **settings,
    )
    trainer = InOrder(model=model, args=arguments, train_dataset=examples())
    losses: list[torch.Tensor] = []
    step: Callable[..., torch.Tensor] = trainer.training_step

    def noting(*args: Any, **kwargs: Any) -> torch.Tensor:
        losses.append(step(*args, **kwargs))
        return losses[-1]

    trainer.training_step = noting
    trainer.train()
    return torch.stack(losses)


def by_trainer(compiled: bool, folder: Path) -> Callable[[torch.nn.Module], torch.Tensor]:
    settings = {"torch_compile": True, "torch_compile_backend": "tilegym"} if compiled else {}
    return lambda model: trained(model, folder, **settings)


def by_trainer_of_a_compiled_model(
    compiled: bool, folder: Path
) -> Callable[[torch.nn.Module], torch.Tensor]:
    """The Trainer knows nothing of it."""

    def run(model: torch.nn.Module) -> torch.Tensor:
        if compiled:
            model.compile(backend="tilegym")
        return trained(model, folder)

    return run


def by_accelerate(compiled: bool, _folder: Path) -> Callable[[torch.nn.Module], torch.Tensor]:
    """A loop that the user writes, around what `prepare` returns."""

    def run(model: torch.nn.Module) -> torch.Tensor:
        AcceleratorState._reset_state()  # the first one of a process decides for all others
        accelerator = Accelerator(cpu=True, dynamo_backend="tilegym" if compiled else "no")
        optimiser = torch.optim.AdamW(model.parameters(), **ADAM)
        loader = torch.utils.data.DataLoader(examples(), batch_size=2)
        call, optimiser, loader = accelerator.prepare(model, optimiser, loader)
        losses = []
        for batch in loader:
            loss = call(**batch).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(call.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses)

    return run


@pytest.mark.parametrize(
    "loop",
    (
        by_trainer,
        by_accelerate,
        pytest.param(by_trainer_of_a_compiled_model, marks=pytest.mark.full),
    ),
    ids=lambda loop: loop.__name__,
)
def test_loops_of_others(loop: Callable[..., Any], tmp_path: Path) -> None:
    eager, ours, wide = llama(), llama(), oracle.widened(llama())
    with oracle.Float64():
        exact = loop(False, tmp_path)(wide)
    expected = loop(False, tmp_path)(eager)
    found = loop(True, tmp_path)(ours)
    assert len(found) == STEPS
    verdict = within_budget(found, exact, expected)
    assert verdict, f"losses: {verdict}"
    assert_parameters(ours, wide, eager)
    report = tile_backend.last_report()
    assert report is not None, "the backend was not called"
    assert_sites(report)


def test_registering_adds_one_name() -> None:
    accelerate.register()
    member = DynamoBackend("TILEGYM")
    assert member is DynamoBackend("TILEGYM")
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert (member.name, member.value, str(member)) == ("TILEGYM", "TILEGYM", "TILEGYM")
    assert DynamoBackend("INDUCTOR") is DynamoBackend.INDUCTOR
    with pytest.raises(ValueError, match="'TILEGIM' is not a valid DynamoBackend"):
        DynamoBackend("TILEGIM")
