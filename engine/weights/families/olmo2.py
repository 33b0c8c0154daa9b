"""What the files of OLMo 2 say."""

from typing import Any

from engine.errors import LoadError
from engine.weights.gguf_keys import GgufFamily, GgufKeys
from engine.weights.hf_keys import RmsNormKeys


class Olmo2Keys(RmsNormKeys, frozen=True, kw_only=True):
    """Query and key are normalised over all heads of a token."""

    def fields(self) -> dict[str, Any]:
        """Llama's, and the norms."""
        return {**super().fields(), "qk_norm": "row"}


def _fields(keys: GgufKeys) -> dict[str, Any]:
    # OLMo 3 has the same name there, and windows.
    if keys.optional("attention.sliding_window", int, 0):
        raise LoadError(f"{keys.path}: OLMo 3 is not supported.")
    return {"qk_norm": "row"}


HF = {"Olmo2ForCausalLM": Olmo2Keys}
_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GGUF = {"olmo2": GgufFamily("Olmo2ForCausalLM", _fields, _NAMES)}
