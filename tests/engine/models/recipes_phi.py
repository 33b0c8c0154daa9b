"""Tiny models of Phi and StarCoder2 for `tiny.RECIPES`."""

from typing import Any

from transformers import (
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

ROPE_SWITCH = 32  # tokens; a multiple of the block size of every test

_PHI = (PhiConfig, PhiForCausalLM)
_PHI3 = (Phi3Config, Phi3ForCausalLM)
_STARCODER2 = (Starcoder2Config, Starcoder2ForCausalLM)


def _long_rope(num_factors: int, **more: Any) -> dict[str, Any]:
    steps = range(num_factors)
    return {
        "original_max_position_embeddings": ROPE_SWITCH,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0 + 0.1 * i for i in steps],
            "long_factor": [2.0 + 1.5 * i for i in steps],
            **more,
        },
    }


_PARTIAL = {"rope_type": "default", "rope_theta": 250000.0, "partial_rotary_factor": 0.75}

RECIPES: dict[str, tuple[tuple[Any, Any], dict[str, Any]]] = {
    "phi": (_PHI, {}),
    "phi-qk-norm": (
        _PHI,
        {
            "num_key_value_heads": 4,
            "qk_layernorm": True,
            "partial_rotary_factor": 0.4,
            "tie_word_embeddings": True,
        },
    ),
    "phi3": (_PHI3, {}),
    "phi3-window": (_PHI3, {"hidden_size": 72, "num_key_value_heads": 4, "sliding_window": 8}),
    "phi3-partial": (_PHI3, {"rope_parameters": _PARTIAL, "tie_word_embeddings": True}),
    "phi3-long": (_PHI3, _long_rope(8)),
    "phi3-long-window": (
        _PHI3,
        {
            **_long_rope(6, partial_rotary_factor=0.75, factor=4.0),
            "sliding_window": 8,
            "tie_word_embeddings": True,
        },
    ),
    "starcoder2": (_STARCODER2, {}),
    "starcoder2-window": (
        _STARCODER2,
        {
            "hidden_size": 72,
            "sliding_window": 8,
            "tie_word_embeddings": False,
            "use_bias": False,
        },
    ),
}
