"""A small Llama with random weights, made from Transformers' own classes; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch


def tiny_llama(layers: int, hidden: int = 64, dtype: torch.dtype = torch.float32) -> Any:
    """A LlamaForCausalLM in eval mode: heads of 16, 2 query heads per key head, vocabulary 128."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 16,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval()


def tokens(batch: int, length: int) -> torch.Tensor:
    """Token ids [batch, length], int64."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 128, (batch, length), generator=generator)
