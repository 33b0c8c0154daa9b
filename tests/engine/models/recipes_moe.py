"""Recipes of the families with experts, and of those with unusual norms or layers without rotary.

For tiny.RECIPES, which has the shape that they share.
"""

from typing import Any

from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

_MIXTRAL = (MixtralConfig, MixtralForCausalLM)
_QWEN3_MOE = (Qwen3MoeConfig, Qwen3MoeForCausalLM)
_SMOLLM3 = (SmolLM3Config, SmolLM3ForCausalLM)
_OLMO2 = (Olmo2Config, Olmo2ForCausalLM)

_THETA = {"rope_type": "default", "rope_theta": 1e6}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
_WINDOW = {"use_sliding_window": True, "sliding_window": 8}
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}

RECIPES: dict[str, tuple[tuple[Any, Any], dict[str, Any]]] = {
    "mixtral": (_MIXTRAL, {"num_local_experts": 4, "sliding_window": 8}),
    "mixtral-full": (
        _MIXTRAL,
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 4,
            "head_dim": 24,
            "tie_word_embeddings": True,
            "rope_parameters": _THETA,
        },
    ),
    "qwen3-moe": (_QWEN3_MOE, {**_EXPERTS, "norm_topk_prob": True, "head_dim": 32}),
    "qwen3-moe-mixed": (
        _QWEN3_MOE,
        {
            **_EXPERTS,
            **_WINDOW,
            "num_hidden_layers": 4,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": (_SMOLLM3, {"num_hidden_layers": 5}),
    "smollm3-window": (
        _SMOLLM3,
        {
            **_WINDOW,
            "no_rope_layers": [1, 0, 1],
            "num_key_value_heads": 4,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "olmo2": (_OLMO2, {}),
    "olmo2-linear": (
        _OLMO2,
        {
            "num_key_value_heads": 4,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": _LINEAR,
        },
    ),
}
