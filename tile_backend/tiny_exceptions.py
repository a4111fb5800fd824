"""What the generic shrinking cannot know about single model types: as few entries as possible.

first: arguments for the default configuration (it must be buildable before it can be shrunk).
then:  changes to the shrunk arguments.
"""

from __future__ import annotations

from typing import Any

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SECTIONS = {**ROPE, "mrope_section": [3, 3, 2]}
HEAD: dict[str, Any] = {"then": {"head_dim": 16}}
MAMBA_HEADS: dict[str, Any] = {
    "then": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "attn_layer_indices": [1]}
}
INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": MAMBA_HEADS,
    "cohere_compass_text": {
        "then": {"rope_parameters": {"full_attention": SECTIONS, "sliding_attention": SECTIONS}}
    },
    "dbrx": {"then": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}}},
    "deepseek_v2": {"then": {"num_experts_per_tok": 2}},
    "dots1": {"then": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}},
    "dots3_note": {"then": {"text_config": {"head_dim": 24}}},
    "dots3_note_text": {"then": {"head_dim": 24}},
    "granitemoehybrid": {
        "first": {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
        **MAMBA_HEADS,
    },
    "hunyuan_v1_dense": HEAD,
    "hunyuan_v1_moe": HEAD,
    "lfm2_moe": {"then": {"layer_types": ["conv", "full_attention"]}},
    "mamba2": {"then": {"num_heads": 8, "n_groups": 1}},
    "ministral": HEAD,
    "nemotron": {"then": {"num_key_value_heads": 2}},
    "qwen4_exp": {"then": {"text_config": INDEXER}},
    "qwen4_exp_text": {"then": INDEXER},
    "reformer": {
        "then": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"]}
    },
    "xmod": {"then": {"default_language": "en_XX"}},
    "zamba": {
        "then": {
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "attention_hidden_size": 128,
            "attention_head_dim": 32,
        }
    },
    "zamba2": {
        "then": {
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "hybrid_layer_ids": [1, 3],
            "mamba_headdim": 16,
            "attention_hidden_size": 128,
            "attention_head_dim": 32,
        }
    },
}
