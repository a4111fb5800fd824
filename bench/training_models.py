"""Whole training steps of models from Transformers: forward with loss, backward, AdamW.

Two models at their real widths: Llama 3 8B with four layers, and Qwen3 0.6B, whose embedding is
tied to its head. Weights and tokens are random. A CPU gets both much smaller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from bench.versions import Step, UnavailableError
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import Verdict, within_budget

CHECKED = 4096
"""Tokens, at most, of the step that is compared with float64, whose scores and logits are all in
memory."""
LLAMA: Mapping[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
QWEN: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
SMALL: Mapping[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """family: a model type of Transformers. One sequence of `length` tokens makes a step."""

    title: str
    family: str
    config: Mapping[str, Any]
    length: int
    dtype: torch.dtype = torch.bfloat16

    def model(self, device: str) -> Any:
        """In training mode, the same weights each time."""
        from transformers import AutoConfig, AutoModelForCausalLM

        given = {**self.config, "max_position_embeddings": self.length, "use_cache": False}
        config = AutoConfig.for_model(self.family, **given)
        torch.manual_seed(0)
        with torch.device(device):
            made = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
        return made.train()

    def tokens(self, device: str, length: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        shape = (1, length or self.length)
        return torch.randint(self.config["vocab_size"], shape, generator=generator).to(device)


def cases(device: str) -> list[Case]:
    """Every model at every length."""
    if device == "cpu":
        small = {"llama": SMALL, "qwen3": {**SMALL, "tie_word_embeddings": True}}
        return [
            Case(f"{family} {length}", family, config, length, torch.float32)
            for family, config in small.items()
            for length in (512, 2048)
        ]
    families = {"llama": ("llama-3-8b, 4 layers", LLAMA), "qwen3": ("qwen3-0.6b", QWEN)}
    return [
        Case(f"{title} {length}", family, config, length)
        for family, (title, config) in families.items()
        for length in (4096, 8192, 16384)
    ]


@dataclasses.dataclass
class Trained:
    """A model, and what runs its forward."""

    model: Any
    call: Callable[..., Any]
    around: Callable[[], Any] = contextlib.nullcontext

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        with self.around():
            found: torch.Tensor = self.call(input_ids=tokens, labels=tokens).loss
        return found

    def gradients(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """By parameter, and the loss."""
        self.model.zero_grad(set_to_none=True)
        loss = self.loss(tokens)
        loss.backward()
        found = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        return {"loss": loss.detach(), **found}

    def step(self, tokens: torch.Tensor) -> Step:
        """A whole step of training; on a GPU it waits for the end."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=tokens.is_cuda)

        def step() -> list[torch.Tensor]:
            loss = self.loss(tokens)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if tokens.is_cuda:
                torch.cuda.synchronize()
            return [loss.detach()]

        return step


# --- versions -------------------------------------------------------------------------------------


def eager(model: Any) -> Trained:
    """As it is."""
    return Trained(model, model)


def compiled(model: Any, backend: str, **options: Any) -> Trained:
    """As a user compiles it."""
    call = torch.compile(model, backend=backend, dynamic=False, options=options or None)
    return Trained(model, call)


def with_liger(model: Any) -> Trained:
    """Liger's patches for this model, compiled by Inductor. Raises UnavailableError.

    It also replaces functions of the module in which the model is written, which other versions of
    the model use: these are in place only while its own step runs.
    """
    try:
        patch = importlib.import_module("liger_kernel.transformers")
        apply = patch._apply_liger_kernel_to_instance
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise UnavailableError(f"Liger cannot be used: {error}") from error
    module = importlib.import_module(type(model).__module__)
    before = dict(vars(module))
    apply(model=model)
    changed = {n: v for n, v in vars(module).items() if before.get(n) is not v}
    restore(module, before, changed)
    found = compiled(model, "inductor")
    found.around = functools.partial(replaced, module, before, changed)
    return found


@contextlib.contextmanager
def replaced(module: Any, before: Mapping[str, Any], changed: Mapping[str, Any]) -> Iterator[None]:
    """With `changed` in place of what the module had `before`."""
    vars(module).update(changed)
    try:
        yield
    finally:
        restore(module, before, changed)


def restore(module: Any, before: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """What the module had `before` for these names."""
    for name in changed:
        if name in before:
            setattr(module, name, before[name])
        else:
            delattr(module, name)


def makers(device: str) -> dict[str, Callable[[Any], Trained]]:
    """By name; each takes a model of its own. `no logits` is tilegym with tilegym.drop_logits."""
    found: dict[str, Callable[[Any], Trained]] = {
        "tilegym": functools.partial(compiled, backend="tilegym"),
        "no logits": functools.partial(
            compiled, backend="tilegym", **{"tilegym.drop_logits": True}
        ),
        "inductor": functools.partial(compiled, backend="inductor"),
        "eager": eager,
    }
    if device != "cpu":
        found["liger"] = with_liger
    return found


# --- correctness ----------------------------------------------------------------------------------


def judge(case: Case, device: str) -> Callable[[Trained], Verdict]:
    """Whether loss and gradients of a few tokens are within the budget of the eager model.

    Each gradient is scaled by a power of two to about one, and all share one budget, so that every
    parameter counts alike.
    """
    tokens = case.tokens(device, min(CHECKED, case.length))
    model = case.model(device)
    original = eager(model).gradients(tokens)
    wide = oracle.widened(model)
    with oracle.Float64():
        exact = eager(wide).gradients(tokens)
    scales = {n: 2.0 ** -math.frexp(g.abs().max().item())[1] for n, g in exact.items()}

    def scaled(gradients: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        parts = [(gradients[n] * scale).flatten() for n, scale in scales.items() if n != "loss"]
        return [gradients["loss"], torch.cat(parts)]

    expected = scaled(exact), scaled(original)
    return lambda trained: within_budget(scaled(trained.gradients(tokens)), *expected)
