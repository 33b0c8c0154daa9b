"""What the files of Phi-3, 3.5 and 4 say."""

from typing import Any

from engine.weights.gguf_keys import GgufFamily, GgufKeys
from engine.weights.hf_keys import Count, RmsNormKeys


class Phi3Keys(RmsNormKeys, frozen=True, kw_only=True):
    """No biases; every layer has the window, if there is one."""

    has_partial_rotary = True

    original_max_position_embeddings: Count | None = 4096
    sliding_window: Count | None = None

    def fields(self) -> dict[str, Any]:
        """Norms and windows."""
        window = self.sliding_window or 0
        return {
            "norm_eps": self.rms_norm_eps,
            "windows": (window,) * self.num_hidden_layers if window else (),
        }

    def rope(self) -> dict[str, Any]:
        """What the first configs of Phi-3 called yarn is LongRoPE, to transformers too."""
        values = super().rope()
        if (values.get("rope_type") or values.get("type")) == "yarn":
            values["rope_type"] = "longrope"
        return values


def _fields(keys: GgufKeys) -> dict[str, Any]:
    """Files of early 2024 lack the key; those of 4096 tokens are of models with this window.

    llama.cpp gave it to them too, until it left out Phi's windows (its pull request 13676).
    """
    num_layers: int = keys.required("block_count", Count)
    is_there = keys.optional("attention.sliding_window", int, None) is not None
    if is_there or num_layers not in (32, 40) or keys.required("context_length", int) != 4096:
        return {}
    return {"windows": (2047,) * num_layers}


HF = {"Phi3ForCausalLM": Phi3Keys}
GGUF = {"phi3": GgufFamily("Phi3ForCausalLM", _fields, {"ffn_up": "mlp.gate_up_proj"})}
