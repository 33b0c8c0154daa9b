"""What the files of StarCoder2 say."""

from typing import Any

from engine.weights.gguf_keys import GgufFamily, GgufKeys
from engine.weights.hf_keys import Count, HfKeys, Positive

_PUBLISHED_WINDOW = 4096


class Starcoder2Keys(HfKeys, frozen=True, kw_only=True):
    """Layer norms, and one switch for the biases of all projections."""

    hidden_act: str = "gelu_pytorch_tanh"
    norm_epsilon: Positive = 1e-5
    use_bias: bool = True
    sliding_window: Count | None = None
    tie_word_embeddings: bool = True

    def fields(self) -> dict[str, Any]:
        """Norms, biases and windows."""
        window = self.sliding_window or 0
        return {
            "norm": "layer",
            "norm_eps": self.norm_epsilon,
            "attention_bias": self.use_bias,
            "attention_output_bias": self.use_bias,
            "mlp_bias": self.use_bias,
            "windows": (window,) * self.num_hidden_layers if window else (),
        }


def _fields(keys: GgufKeys) -> dict[str, Any]:
    fields: dict[str, Any] = {"norm": "layer", "activation": "gelu_tanh"}
    if keys.optional("attention.sliding_window", int, None) is None:
        # llama.cpp's converter leaves it out; all three published models have this one.
        fields["windows"] = (_PUBLISHED_WINDOW,) * keys.required("block_count", Count)
    return fields


_NAMES = {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}

HF = {"Starcoder2ForCausalLM": Starcoder2Keys}
GGUF = {"starcoder2": GgufFamily("Starcoder2ForCausalLM", _fields, _NAMES)}
