"""What the files of Gemma 1 say, and what those of all Gemmas have in common."""

from typing import Any

from engine.weights.gguf_keys import Count as GgufCount, GgufFamily, GgufKeys
from engine.weights.hf_keys import Count, RmsNormKeys


class AnyGemmaKeys(RmsNormKeys, frozen=True, kw_only=True):
    """Tied and scaled embeddings, norms around one, a head's size that is not derived."""

    head_dim: Count | None = 256
    hidden_activation: str | None = None
    tie_word_embeddings: bool = True
    eos_token_id: int | list[int] | None = 1
    bos_token_id: int | None = 2

    def fields(self) -> dict[str, Any]:
        """Llama's, the norms' and the embedding's."""
        return {
            **super().fields(),
            "norm_offset": 1.0,
            "is_norm_wide": True,
            "embedding_scale": self.hidden_size**0.5,
        }

    def activation(self) -> str:
        """By tanh, unless the file says so under the name that is not ambiguous."""
        return self.hidden_activation or "gelu_pytorch_tanh"


class GemmaKeys(AnyGemmaKeys, frozen=True, kw_only=True):
    """Gemma 1, whose first files call the activation gelu and mean its form by tanh."""

    hidden_act: str = "gelu_pytorch_tanh"

    def activation(self) -> str:
        """`hidden_activation`, or else `hidden_act` as transformers reads it."""
        legacy = "gelu_pytorch_tanh" if self.hidden_act == "gelu" else self.hidden_act
        return self.hidden_activation or legacy


def gguf_fields(keys: GgufKeys) -> dict[str, Any]:
    """Those of all Gemmas. The converter has added the one to the norms' weights."""
    return {
        "activation": "gelu_tanh",
        "is_norm_wide": True,
        "embedding_scale": keys.required("embedding_length", GgufCount) ** 0.5,
    }


def gguf_attention_scale(keys: GgufKeys, layers_of_27b: int) -> float:
    """The files do not say it; llama.cpp tells the 27B models, that have another, by their depth.

    0 is the default of `ModelConfig`.
    """
    if keys.required("block_count", GgufCount) != layers_of_27b:
        return 0.0
    size: int = keys.required("embedding_length", GgufCount)
    return float((size // keys.required("attention.head_count", GgufCount)) ** -0.5)


# What Gemma 2 and 3 call the norms around their feed-forward block.
SANDWICH_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

HF = {"GemmaForCausalLM": GemmaKeys}
GGUF = {"gemma": GgufFamily("GemmaForCausalLM", gguf_fields)}
