"""A tiny random model of any causal-LM type that the installed Transformers knows. No downloads."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tile_backend.errors import BadTarget, MissingDependency, UnknownTarget
from tile_backend.nearest import nearest
from tile_backend.tiny_exceptions import SPECIAL
from tile_backend.tiny_shrink import merged, shrunk
from tile_backend.tiny_sizes import VOCABULARY

LARGEST = 50_000_000
"""Parameters; a configuration that stays larger was not shrunk."""


def transformers() -> Any:
    """The package, or `MissingDependency`."""
    try:
        import transformers as package
    except ImportError as error:
        raise MissingDependency(
            what="a model type of Transformers as a target",
            package="transformers",
            cause=error,
            command="pip install transformers",
        ) from error
    return package


def model_types() -> list[str]:
    """Every model type with a causal-LM class, sorted."""
    known = transformers().models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return sorted(known)


def check_model_type(model_type: str) -> None:
    """Raise `UnknownTarget`, naming the nearest model type, where it is not one."""
    known = model_types()
    if model_type not in known:
        version = transformers().__version__
        raise UnknownTarget(
            target=model_type,
            cause=f"Transformers {version} has no causal language model of that type, "
            f"the nearest is {nearest(model_type, known)!r}",
        )


@functools.cache
def tiny_config(model_type: str) -> Any:
    """The shrunk default configuration of a model type; raises `UnknownTarget`."""
    check_model_type(model_type)
    exception = SPECIAL.get(model_type, {})
    make = functools.partial(transformers().AutoConfig.for_model, model_type)
    default = make(**exception.get("first", {}))
    return make(**merged(shrunk(default), exception.get("then", {})))


def tiny_model(
    model_type: str,
    attention: str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> torch.nn.Module:
    """A model in evaluation mode with random weights; the caller's random numbers are untouched.

    attention: "sdpa", "eager" or another implementation; None is SDPA where the class has it.

    Raises `UnknownTarget`, or `BadTarget` where the type cannot be shrunk.
    """
    config = tiny_config(model_type)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = from_config(config, attention, dtype)
        if sum(parameter.numel() for parameter in model.parameters()) > LARGEST:
            raise BadTarget(
                target=model_type,
                cause=f"its tiny configuration still has over {LARGEST} parameters",
                fix="Write a config.json and give its folder",
            )
        randomise_norms(model)
    return model.eval()


def from_config(config: Any, attention: str | None, dtype: torch.dtype) -> torch.nn.Module:
    """A causal language model on the current default device."""
    make = functools.partial(transformers().AutoModelForCausalLM.from_config, config, dtype=dtype)
    if attention is not None:
        return make(attn_implementation=attention)  # type: ignore[no-any-return]
    try:
        return make(attn_implementation="sdpa")  # type: ignore[no-any-return]
    except ValueError:  # the class has no SDPA
        return make(attn_implementation="eager")  # type: ignore[no-any-return]


def randomise_norms(model: torch.nn.Module) -> None:
    """Move norm weights and biases off 1 and 0, where a wrong (1 + weight) would not show."""
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() or "ln_" in name or ".ln" in name:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


def tokens(batch: int, length: int, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """Random token ids [batch, length], the same every time; the special ones do not occur."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(min(3, vocabulary - 1), vocabulary, (batch, length), generator=generator)
