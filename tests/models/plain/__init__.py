"""Models in plain PyTorch, in the styles of people who do not use Transformers.

Each module has `build() -> nn.Module` and `example() -> tuple[Tensor, ...]`; both draw random
numbers. Adding a file adds a model to every test over them.
"""

from __future__ import annotations

import importlib
import pkgutil

import torch

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def build(
    name: str, dtype: torch.dtype = torch.float32
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The model in evaluation mode and inputs for it, the same at each call.

    Real parameters and buffers become `dtype` (float32 or bf16); complex buffers stay complex64,
    where `.to(dtype)` would drop their imaginary part.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    generator = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        model = module.build()
        model = (model.bfloat16() if dtype == torch.bfloat16 else model.float()).eval()
        inputs = tuple(t.to(dtype) if t.is_floating_point() else t for t in module.example())
    finally:
        torch.random.set_rng_state(generator)
    return model, inputs
