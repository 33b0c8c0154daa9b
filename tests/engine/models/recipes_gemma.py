"""Recipes of Gemma 1, 2 and 3, in the form that tiny.py has them."""

from typing import Any

from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
)

_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_GLOBAL_LINEAR = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
}
_LAYERS = {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}


def _vision_config(**text: Any) -> Gemma3Config:
    """A model that sees pictures of four patches, with a token for each."""
    return Gemma3Config(
        text_config=Gemma3TextConfig(**text),
        vision_config=_VISION,
        mm_tokens_per_image=4,
        image_token_index=319,
        boi_token_index=318,
        eoi_token_index=317,
        tie_word_embeddings=text.get("tie_word_embeddings", True),
    )


_GEMMA = (GemmaConfig, GemmaForCausalLM)
_GEMMA2 = (Gemma2Config, Gemma2ForCausalLM)
_GEMMA3 = (Gemma3TextConfig, Gemma3ForCausalLM)
_GEMMA3_VISION = (_vision_config, Gemma3ForConditionalGeneration)

# Twice the hidden size in heads, as Gemma 7B has it.
_WIDE_HEADS = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}

RECIPES: dict[str, tuple[tuple[Any, Any], dict[str, Any]]] = {
    "gemma": (_GEMMA, {"head_dim": 32}),
    "gemma-mqa": (_GEMMA, {"head_dim": 24, "num_key_value_heads": 1, "hidden_act": "gelu"}),
    "gemma-untied": (_GEMMA, {"head_dim": 16, "tie_word_embeddings": False}),
    "gemma2": (_GEMMA2, _WIDE_HEADS),
    "gemma2-scale": (
        _GEMMA2,
        {**_WIDE_HEADS, **_LAYERS, "query_pre_attn_scalar": 20, "num_key_value_heads": 4},
    ),
    # So tight that it bends every score and logit.
    "gemma2-tight": (
        _GEMMA2,
        {**_WIDE_HEADS, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 0.8},
    ),
    "gemma2-uncapped": (
        _GEMMA2,
        {**_WIDE_HEADS, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3": (_GEMMA3, {**_WIDE_HEADS, "num_hidden_layers": 7}),
    "gemma3-linear": (
        _GEMMA3,
        {**_WIDE_HEADS, **_LAYERS, "rope_parameters": _GLOBAL_LINEAR, "attention_bias": True},
    ),
    "gemma3-capped": (
        _GEMMA3,
        {
            **_WIDE_HEADS,
            **_LAYERS,
            "final_logit_softcapping": 2.0,
            "tie_word_embeddings": False,
        },
    ),
    "gemma3-vision": (
        _GEMMA3_VISION,
        {
            **_WIDE_HEADS,
            **_LAYERS,
            "query_pre_attn_scalar": 20,
            "rope_parameters": _GLOBAL_LINEAR,
        },
    ),
}
