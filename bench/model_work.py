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
    per_token = sum(2 * number * share for number, share, _ in weights(case))
    heads = case.model.config["num_attention_heads"] * case.model.head_dim
    pairs = sum(pairs_of(case, window) for window in windows(case))
    head = 2 * case.batch * case.model.config["vocab_size"] * case.model.config["hidden_size"]
    return int(tokens * per_token) + 4 * case.batch * heads * pairs + head


def bytes_read(case: Case) -> int:
    """Weights and cache, each once."""
    tokens = case.batch * case.length
    used = sum(number * min(1.0, share * tokens) for number, share, _ in weights(case))
    head = case.model.config["vocab_size"] * case.model.config["hidden_size"]
    kv = 2 * case.batch * case.model.config["num_key_value_heads"] * case.model.head_dim
    cached = sum(kv * min(case.filled, window) for window in windows(case))
    return int((used + head + cached) * case.dtype.itemsize)


def weights(case: Case) -> Iterator[tuple[int, float, str]]:
    """Of the layers: how many numbers, which part of them a token uses, name."""
    config = case.model.config
    part = config.get("num_experts_per_tok", 1) / config.get("num_local_experts", 1)
    for name, weight in case.model.made(case.layers, "meta").named_parameters():
        if ".layers." in name:
            routed = ".experts." in name
            # A share counts for FLOPs; of a dense weight every token uses all.
            yield weight.numel(), part if routed else 1.0, name


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
