"""How large each configuration field becomes; a field that no table names keeps its default.

Widths are 64 in four heads of 16, vocabularies 128, at most six layers.
"""

from __future__ import annotations

WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 64, 4, 2, 16, 128
MAX_LAYERS = 6

SIZES: dict[str, int] = {
    **dict.fromkeys(
        "hidden_size d_model n_embd embedding_dim attention_hidden_size lru_width "
        "hidden_size_global embed_dim emb_dim out_hidden_size backbone_hidden_size "
        "adapter_in_dim adapter_out_dim adapter_input_size".split(),
        WIDTH,
    ),
    **dict.fromkeys(
        "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size d_ff dff dim_ff "
        "shared_intermediate_size intermediate_size_mlp d_inner dense_intermediate_size "
        "feed_forward_size mlp_dim".split(),
        2 * WIDTH,
    ),
    **dict.fromkeys(
        "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
        "shared_experts_intermediate_size moe_shared_expert_intermediate_size "
        "latent_size".split(),
        WIDTH // 2,
    ),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
        "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "linear_num_value_heads linear_num_heads swa_num_attention_heads index_n_heads".split(),
        HEADS,
    ),
    **dict.fromkeys("linear_num_key_heads".split(), KV_HEADS),
    **dict.fromkeys(
        "head_dim global_head_dim swa_head_dim v_head_dim qk_nope_head_dim kv_channels "
        "q_lora_rank kv_lora_rank o_lora_rank linear_key_head_dim linear_value_head_dim "
        "linear_head_dim attention_head_size dim_head d_kv ssm_state_size mamba_d_state "
        "state_size d_head mamba_dt_rank time_step_rank index_head_dim".split(),
        HEAD_DIM,
    ),
    "qk_rope_head_dim": HEAD_DIM // 2,
    "rotary_dim": HEAD_DIM // 2,
    "qk_head_dim": HEAD_DIM + HEAD_DIM // 2,
    **dict.fromkeys(
        "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num".split(), 4
    ),
    **dict.fromkeys(
        "vocab_size vocab_size_per_layer_input unpadded_vocab_size decoder_vocab_size".split(),
        VOCABULARY,
    ),
    **dict.fromkeys(
        "max_position_embeddings n_positions n_ctx max_seq_len context_length "
        "model_max_length max_sequence_length".split(),
        256,
    ),
    "hidden_size_per_layer_input": 8,
    "original_max_position_embeddings": 64,
}
AT_MOST: dict[str, int] = {
    **dict.fromkeys(
        "num_experts_per_tok num_experts_per_token moe_k moe_top_k moe_topk".split(), 2
    ),
    **dict.fromkeys("n_group num_expert_group n_groups o_groups".split(), 2),
    **dict.fromkeys("topk_group".split(), 1),
    **dict.fromkeys(
        "sliding_window sliding_window_size attention_window_size window_size".split(), 8
    ),
    **dict.fromkeys("local_attention attention_chunk_size index_topk block_size".split(), 8),
    **dict.fromkeys("first_k_dense_replace num_dense_layers num_global_layers".split(), 1),
    **dict.fromkeys("chunk_size mamba_chunk_size".split(), 16),
    "laurel_rank": 4,
    "encoder_hash_byte_group_vocab": 64,
    "num_kv_shared_layers": 0,
}
LAYERS = frozenset(
    "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
    "num_encoder_layers num_decoder_layers num_layers_per_stack num_blocks depth".split()
)
KEY_VALUE_HEADS = frozenset(
    "num_key_value_heads num_kv_heads kv_n_heads num_global_key_value_heads "
    "swa_num_key_value_heads num_query_groups multi_query_group_num".split()
)
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
UNTOUCHED = frozenset(
    "id2label label2id transformers_version architectures _name_or_path output_attentions".split()
)
