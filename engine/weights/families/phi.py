"""What the files of Phi-1, 1.5 and 2 say."""

from typing import Any

from engine.weights.gguf_keys import GgufFamily, GgufKeys
from engine.weights.hf_keys import HfKeys, Positive


class PhiKeys(HfKeys, frozen=True, kw_only=True):
    """Layer norms, biases everywhere; half of a head is turned unless the file says otherwise."""

    has_partial_rotary = True

    hidden_act: str = "gelu_new"
    partial_rotary_factor: float | None = 0.5
    layer_norm_eps: Positive = 1e-5
    qk_layernorm: bool = False

    def fields(self) -> dict[str, Any]:
        """Norms and biases."""
        return {
            "norm": "layer",
            "norm_eps": self.layer_norm_eps,
            "attention_bias": True,
            "attention_output_bias": True,
            "mlp_bias": True,
            "lm_head_bias": True,
            "qk_norm": "head" if self.qk_layernorm else "",
        }


def _fields(keys: GgufKeys) -> dict[str, Any]:
    return {
        "norm": "layer",
        "activation": "gelu_tanh",
        "lm_head_bias": keys.has("output.bias"),
    }


_NAMES = {
    "output_norm": "model.final_layernorm",
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}

HF = {"PhiForCausalLM": PhiKeys}
GGUF = {"phi2": GgufFamily("PhiForCausalLM", _fields, _NAMES)}
