"""The least work of a step of a model: FLOPs of its products, bytes that it has to read.

Products of tokens with weights, and of queries with the keys that their mask shows. A decode step
reads every weight that it uses once, and what the cache holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attention_cases import triangle
from bench.model_cases import Case

SLIDING = "sliding_attention"


def flop(case: Case) -> int:
    """Of the products of one step."""
    tokens = case.batch * case.length
    per_token = sum(2 * number * share for number, share in weights(case))
    heads = int(case.model.config["num_attention_heads"]) * case.model.head_dim
    pairs = sum(pairs_of(case, window) for window in windows(case))
    head = 2 * case.batch * head_weights(case)
    return int(tokens * per_token) + 4 * case.batch * heads * pairs + head


def bytes_read(case: Case) -> int:
    """Weights and cache, each once."""
    tokens = case.batch * case.length
    used = sum(number * min(1.0, share * tokens) for number, share in weights(case))
    kv_heads = int(case.model.config["num_key_value_heads"])
    kv = 2 * case.batch * kv_heads * case.model.head_dim
    cached = sum(kv * min(case.filled, window) for window in windows(case))
    return int((used + head_weights(case) + cached) * case.dtype.itemsize)


def head_weights(case: Case) -> int:
    """Of the last layer, which makes logits."""
    return int(case.model.config["vocab_size"]) * int(case.model.config["hidden_size"])


def weights(case: Case) -> Iterator[tuple[int, float]]:
    """Of the layers: how many numbers, which part of them a token uses."""
    config = case.model.config
    part = config.get("num_experts_per_tok", 1) / config.get("num_local_experts", 1)
    for name, weight in case.model.made(case.layers, "meta").named_parameters():
        if ".layers." in name:
            yield weight.numel(), part if ".experts." in name else 1.0


def windows(case: Case) -> Iterator[int]:
    """How many keys a query sees at most, layer by layer."""
    config = case.config
    everything = case.length + case.filled
    size = getattr(config, "sliding_window", None) or everything
    kinds = getattr(config, "layer_types", None) or [SLIDING] * case.layers
    for kind in kinds:
        yield min(size, everything) if kind == SLIDING else everything


def pairs_of(case: Case, window: int) -> int:
    """Query-key pairs that a causal mask with that window shows, of one head."""
    if case.decodes:
        return min(window, case.filled + 1)
    return triangle(case.length) - triangle(max(0, case.length - window))
