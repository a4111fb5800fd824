"""The models that tests/test_models_gpu.py compiles with every site's kernel put in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from tests.models import named
from tests.models.inputs import INPUTS

OPTIONS: Mapping[str, str] = {"tilegym.kernels": "always", "tilegym.strict": "no-fallback"}


@dataclasses.dataclass(frozen=True)
class Run:
    """call: a name of tests.models.inputs.INPUTS. dynamic: sizes are symbols at once."""

    architecture: str
    call: str
    dynamic: bool = False

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.call}{' dynamic' * self.dynamic}"

    def model(self, device: str = "cpu") -> torch.nn.Module:
        """The same random bfloat16 weights each time."""
        return named.build(self.architecture, torch.bfloat16).to(device)

    def inputs(self, model: torch.nn.Module, device: str = "cpu") -> dict[str, Any]:
        """Of one call of the model."""
        made = INPUTS[self.call](model)
        return {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in made.items()}


RUNS = (
    *(
        Run(name, call)
        for name in ("llama", "qwen3", "gemma3_text")
        for call in ("prefill", "padded")
    ),
    Run("llama", "prefill", dynamic=True),
)
