"""A tiny random model of any causal-LM type that the installed Transformers knows.

The type's own default configuration is shrunk (see `shrink`), with the exceptions of `special`.
Nothing is downloaded.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.coverage.shrink import merged, shrunk
from tests.coverage.special import SPECIAL
from tests.models.named import randomise_norms

LARGEST = 50_000_000
"""Parameters; a type that is larger after shrinking has a field that `sizes` should know."""


def types() -> list[str]:
    """Every model type with a causal-LM class, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)


@functools.cache
def configuration(model_type: str) -> Any:
    quiet()
    special = SPECIAL.get(model_type, {})
    first = special.get("first", {})
    default = transformers.AutoConfig.for_model(model_type, **first)
    changes = merged(shrunk(default), special.get("then", {}))
    return transformers.AutoConfig.for_model(model_type, **changes)


def build(model_type: str) -> torch.nn.Module:
    """The model in evaluation mode, float32; SDPA where the class has it, else eager attention."""
    config = configuration(model_type)
    torch.manual_seed(0)
    make = functools.partial(
        transformers.AutoModelForCausalLM.from_config, config, dtype=torch.float32
    )
    try:
        model = make(attn_implementation="sdpa")
    except ValueError:
        model = make(attn_implementation="eager")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > LARGEST:
        raise ValueError(f"shrunk, it still has {parameters} parameters")
    randomise_norms(model)
    return model.eval()
