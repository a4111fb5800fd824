"""Shrinks a Transformers configuration field by field, keeping what makes its architecture special.

A per-layer list keeps one layer of each distinct kind, in order of appearance. Nested
configurations, per-layer overrides and rope parameters (sections, factor lists) shrink as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.coverage.sizes import (
    AT_MOST,
    HEAD_DIM,
    HEADS,
    KEY_VALUE_HEADS,
    KV_HEADS,
    LAYERS,
    MAX_LAYERS,
    SIZES,
    TOKENS,
    UNTOUCHED,
    VOCABULARY,
)


def per_layer_lists(fields: Mapping[str, Any], layers: int) -> dict[str, list[Any]]:
    return {k: v for k, v in fields.items() if isinstance(v, list) and len(v) == layers > 1}


def chosen_layers(fields: Mapping[str, Any], layers: int) -> list[int]:
    """One layer of each distinct kind in order of appearance, at least two."""
    lists = per_layer_lists(fields, layers)
    kinds: dict[str, int] = {}
    for layer in range(layers):
        kinds.setdefault(str([values[layer] for values in lists.values()]), layer)
    first = sorted(kinds.values())[:MAX_LAYERS]
    return first if len(first) > 1 else [0, 1]


def shrunk_rope(value: Any, head_dim: int) -> Any:
    """Rope parameters with sections and factor lists as long as the smaller head needs."""
    if not isinstance(value, dict):
        return value
    half = int(head_dim * value.get("partial_rotary_factor", 1.0)) // 2
    result = {}
    for key, item in value.items():
        if isinstance(item, dict):
            result[key] = shrunk_rope(item, head_dim)
        elif key == "mrope_section" and item:
            share = [max(1, half * part // sum(item)) for part in item]
            result[key] = [*share[:-1], half - sum(share[:-1])]
        elif key in ("short_factor", "long_factor") and item:
            result[key] = item[:half]
        elif key == "original_max_position_embeddings" and item:
            result[key] = SIZES[key]
        else:
            result[key] = item
    return result


def latent_head_dim(value: int, fields: Mapping[str, Any]) -> int:
    """Multi-head latent attention calls one of three widths `head_dim`."""
    rope, rest = fields.get("qk_rope_head_dim"), fields.get("qk_nope_head_dim")
    if value == rope:
        return SIZES["qk_rope_head_dim"]
    return SIZES["qk_head_dim"] if rope and rest and value == rope + rest else HEAD_DIM


def shrunk_field(name: str, value: Any, fields: Mapping[str, Any], chosen: list[int]) -> Any:
    layers = len(chosen)
    if name in LAYERS and isinstance(value, int):
        return layers
    if isinstance(value, bool) or value is None:
        return value
    if name == "head_dim" and isinstance(value, int):
        return latent_head_dim(value, fields)
    if name in SIZES and isinstance(value, (int, list)):
        size = SIZES[name]
        return [size] * layers if isinstance(value, list) else size if value else value
    if name in AT_MOST and isinstance(value, int):
        return min(value, AT_MOST[name])
    if name in KEY_VALUE_HEADS and isinstance(value, int):
        heads = fields.get("num_attention_heads") or fields.get("n_heads")
        return HEADS if value == heads else min(value, KV_HEADS)
    if name in TOKENS:
        return [TOKENS[name]] if isinstance(value, list) else TOKENS[name]
    if name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
        return 3 + sum(map(ord, name)) % (VOCABULARY - 8)
    if name.startswith("rope_") and isinstance(value, dict):
        head = fields.get("qk_rope_head_dim") and SIZES["qk_rope_head_dim"]
        return shrunk_rope(value, head or HEAD_DIM)
    return value


def shrunk_layers(
    overrides: Mapping[Any, Any] | None, fields: Mapping[str, Any], chosen: list[int]
) -> dict[int, dict[str, Any]] | None:
    """`per_layer_config`: fields that differ in single layers, by index."""
    if not overrides:
        return None
    by_layer = {int(layer): values for layer, values in overrides.items()}
    return {
        new: {
            k: shrunk_field(k, v, {**fields, **by_layer[old]}, chosen)
            for k, v in by_layer[old].items()
        }
        for new, old in enumerate(chosen)
        if old in by_layer
    }


def shrunk(config: Any) -> dict[str, Any]:
    """Keyword arguments that build the same kind of configuration, tiny."""
    fields = {k: v for k, v in config.to_dict().items() if k not in UNTOUCHED}
    layers = next((fields[k] for k in sorted(LAYERS) if isinstance(fields.get(k), int)), 2)
    chosen = chosen_layers(fields, layers)
    result: dict[str, Any] = {}
    for name, value in fields.items():
        inner = getattr(config, name, None) if name.endswith("_config") else None
        if name == "per_layer_config":
            result[name] = shrunk_layers(value, fields, chosen)
        elif hasattr(inner, "to_dict"):
            result[name] = {**shrunk(inner), "model_type": inner.model_type}
        elif isinstance(value, list) and len(value) == layers > 1:
            kept = [value[layer] for layer in chosen]
            result[name] = shrunk_field(name, kept, fields, chosen)
        else:
            result[name] = shrunk_field(name, value, fields, chosen)
    result.pop("model_type", None)
    return result


def merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries are merged; a value of None removes the field."""
    result = dict(base)
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result
