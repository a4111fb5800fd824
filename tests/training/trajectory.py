"""One training run as data: 32 AdamW steps of a mini model on prose, and what came of them.

A `Setup` says what is trained; `Way` is the model with the callable that computes it (the model
itself, or its compiled form). A way is compiled once and serves all seeds: each run loads weights
into the same parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from tests.models import named
from tests.training import prose

SEEDS = (0, 1, 2)

RATE = 2.0**-11.5
"""Adam's first step is a rate long for every element. Halfway between two powers of two it is far
from half a spacing of a bfloat16 parameter, where rounding would decide whether it counts."""

EPSILON = 1e-4
"""Added to the size of a gradient before Adam divides by it. With Adam's own 1e-8, an element whose
gradient is rounding noise moves by a whole rate, wherever the noise points: in one of three seeds
of a float32 Llama such elements put Inductor's run 300 times further from eager's than in the
others. With this one Adam's step is continuous in the gradient, and the seeds differ alike."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """name: of tests.models.named. dtype: of all parameters. Sizes are of one batch of tokens.

    changes: of its configuration; hashable, so tuples stand for lists.

    In float32 a router chooses two of four experts. In bfloat16 it takes all four: there eager and
    Inductor choose differently in the first steps, and training would not be a continuous function
    of its rounding.
    """

    name: str
    dtype: str = "float32"
    device: str = "cpu"
    steps: int = 32
    batch: int = 2
    length: int = 64
    changes: tuple[tuple[str, Any], ...] = ()

    def model(self, seed: int) -> torch.nn.Module:
        """Random weights, others for each seed."""
        lists = {k: list(v) if isinstance(v, tuple) else v for k, v in self.changes}
        changes = {"vocab_size": prose.VOCABULARY, **lists}
        experts = named.CONFIGURATIONS[self.name].get("num_local_experts")
        if experts and self.dtype == "bfloat16":
            changes["num_experts_per_tok"] = experts
        dtype = getattr(torch, self.dtype)
        return named.build(self.name, dtype, seed=seed, **changes).train().to(self.device)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What one run leaves.

    losses: one scalar for each step, before that step. parameters: the
    optimiser's, float32, by name, after each step.
    log_probabilities: float32 [batch, length, vocabulary] of held-out text, after the last step.
    choices: for each step, and for the held-out text, the experts of every token of every layer;
    empty for a model without experts.
    """

    losses: tuple[torch.Tensor, ...]
    parameters: tuple[dict[str, torch.Tensor], ...]
    log_probabilities: torch.Tensor
    choices: tuple[torch.Tensor, ...]


class MasterAdamW:
    """AdamW on float32 copies of the parameters, which mixed-precision training calls masters.

    Without them a bfloat16 parameter either loses an update or jumps by a spacing, as rounding
    decides, and no two runs are near each other for long. Of a float32 model the copies are equal
    to its parameters. Gradients are gone after a step.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.masters = {n: p.detach().float().clone() for n, p in model.named_parameters()}
        self.adam = torch.optim.AdamW(self.masters.values(), lr=RATE, eps=EPSILON)

    @torch.no_grad()
    def step(self) -> None:
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            self.masters[name].grad = parameter.grad.float()
            parameter.grad = None
        self.adam.step()
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.masters[name])

    def parameters(self) -> dict[str, torch.Tensor]:
        """Copies of the masters, on the CPU."""
        return {name: master.cpu().clone() for name, master in self.masters.items()}


class Way:
    """A model that is called through `compile(model)`."""

    def __init__(self, setup: Setup, compile: Callable[[torch.nn.Module], Any]) -> None:  # noqa: A002
        self.setup = setup
        self.model = setup.model(SEEDS[0])
        self.chosen: list[torch.Tensor] = []
        for path, module in self.model.named_modules():
            if type(module).__name__.endswith("TopKRouter"):
                assert path
                module.register_forward_hook(self._note)
        self.call = compile(self.model)

    def _note(self, _module: Any, _arguments: Any, outputs: Any) -> None:
        """Keep the expert indices [tokens, k], which a router returns last."""
        self.chosen.append(outputs[-1])

    def _called(self, ids: torch.Tensor) -> tuple[Any, torch.Tensor]:
        self.chosen.clear()
        outputs = self.call(input_ids=ids, labels=ids, use_cache=False)
        # As sets: the two chosen experts of a token are added up, in any order.
        sets = [indices.detach().sort(-1).values.cpu() for indices in self.chosen]
        return outputs, torch.stack(sets) if sets else torch.empty(0)

    def run(self, seed: int) -> Trajectory:
        """Train from the weights of `seed` on its batches."""
        setup = self.setup
        self.model.load_state_dict(setup.model(seed).state_dict())
        self.model.zero_grad(set_to_none=True)
        optimiser = MasterAdamW(self.model)
        losses, states, choices = [], [], []
        for ids in prose.batches(seed, setup.steps, setup.batch, setup.length):
            outputs, chosen = self._called(ids.to(setup.device))
            outputs.loss.backward()
            optimiser.step()
            losses.append(outputs.loss.detach().cpu())
            choices.append(chosen)
            states.append(optimiser.parameters())
        outputs, chosen = self._called(prose.held_out(setup.batch, setup.length).to(setup.device))
        found = outputs.logits.detach().cpu().float().log_softmax(-1)
        return Trajectory(tuple(losses), tuple(states), found, (*choices, chosen))
