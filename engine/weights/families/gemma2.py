"""What the files of Gemma 2 say."""

from typing import Any

from engine.weights.families.gemma import (
    SANDWICH_NAMES,
    AnyGemmaKeys,
    gguf_attention_scale,
    gguf_fields,
)
from engine.weights.gguf_keys import GgufFamily, GgufKeys
from engine.weights.hf_keys import Count, Positive, windows_of


class Gemma2Keys(AnyGemmaKeys, frozen=True, kw_only=True):
    """Bounds on scores and logits; a window on every layer of even index."""

    query_pre_attn_scalar: Positive = 256
    sliding_window: Count = 4096
    layer_types: list[str] | None = None
    attn_logit_softcapping: Positive | None = 50.0
    final_logit_softcapping: Positive | None = 30.0

    def fields(self) -> dict[str, Any]:
        """Those of all Gemmas, the bounds, the scale and the windows."""
        count = self.num_hidden_layers
        types = self.layer_types or alternating(count, 2)
        return {
            **super().fields(),
            "attention_scale": self.query_pre_attn_scalar**-0.5,
            "attention_softcap": self.attn_logit_softcapping or 0.0,
            "logit_softcap": self.final_logit_softcapping or 0.0,
            "windows": windows_of(types, count, self.sliding_window),
        }


def alternating(num_layers: int, period: int) -> list[str]:
    """Layer types where the last of each `period` layers sees everything."""
    return [
        "sliding_attention" if (layer + 1) % period else "full_attention"
        for layer in range(num_layers)
    ]


def _fields(keys: GgufKeys) -> dict[str, Any]:
    count = keys.required("block_count", int)
    window = keys.optional("attention.sliding_window", Count, 4096)
    return {
        **gguf_fields(keys),
        "attention_scale": gguf_attention_scale(keys, layers_of_27b=46),
        "attention_softcap": keys.optional("attn_logit_softcapping", Positive, 50.0),
        "logit_softcap": keys.optional("final_logit_softcapping", Positive, 30.0),
        "windows": windows_of(alternating(count, 2), count, window),
    }


HF = {"Gemma2ForCausalLM": Gemma2Keys}
GGUF = {"gemma2": GgufFamily("Gemma2ForCausalLM", _fields, SANDWICH_NAMES)}
