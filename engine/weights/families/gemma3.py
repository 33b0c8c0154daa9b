"""What the files of Gemma 3 say."""

from typing import Any, ClassVar

import msgspec

from engine.errors import LoadError
from engine.weights.bounds import LayerCount
from engine.weights.families.gemma import (
    SANDWICH_NAMES,
    AnyGemmaKeys,
    gguf_attention_scale,
    gguf_fields,
)
from engine.weights.families.gemma2 import alternating
from engine.weights.gguf_keys import GgufFamily, GgufKeys
from engine.weights.hf_keys import Count, Positive, windows_of

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


class Gemma3Keys(AnyGemmaKeys, frozen=True, kw_only=True):
    """Two kinds of layers, each with rotary positions of its own. Published files lean on defaults.

    transformers 5 has the parameters of both kinds in `rope_parameters`; before, `rope_scaling` and
    `rope_theta` were of layers that see everything and `rope_local_base_freq` of the others.
    """

    vocab_size: Count = 262208
    hidden_size: Count = 2304
    intermediate_size: Count = 9216
    num_hidden_layers: LayerCount = 26
    num_attention_heads: Count = 8
    num_key_value_heads: Count | None = 4
    max_position_embeddings: Count = 131072
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive = 1000000.0
    rope_local_base_freq: Positive = 10000.0
    query_pre_attn_scalar: Positive = 256
    sliding_window: Count = 4096
    sliding_window_pattern: Count = 6
    layer_types: list[str] | None = None
    final_logit_softcapping: Positive | None = None

    def fields(self) -> dict[str, Any]:
        """Those of all Gemmas, the norms of queries and keys, the scale and the windows."""
        count = self.num_hidden_layers
        types = self.layer_types or alternating(count, self.sliding_window_pattern)
        return {
            **super().fields(),
            "qk_norm": "head",
            "attention_scale": self.query_pre_attn_scalar**-0.5,
            "logit_softcap": self.final_logit_softcapping or 0.0,
            "windows": windows_of(types, count, self.sliding_window),
            "local_rope_theta": self._local_theta(),
        }

    def side_of(self, window: int) -> int:
        """EmbeddingGemma's window is that of both sides together."""
        return window // 2

    def rope(self) -> dict[str, Any]:
        """The parameters of layers that see everything."""
        if self.rope_parameters is None:
            return super().rope()
        # A struct of one kind's parameters reads like that of a family with one kind.
        flat = msgspec.structs.replace(self, rope_parameters=self._parameters(_GLOBAL))
        return super(Gemma3Keys, flat).rope()

    def _parameters(self, kind: str) -> dict[str, Any]:
        """Those of one kind of layers in transformers 5's spelling."""
        values = (self.rope_parameters or {kind: {}}).get(kind)
        if not isinstance(values, dict):
            raise LoadError(f"rope_parameters must have an object {kind}")
        return values

    def _local_theta(self) -> float:
        values = self._parameters(_LOCAL)
        if values.get("rope_type", "default") != "default":
            raise LoadError("rope_parameters that stretch layers with a window are not supported")
        theta = values.get("rope_theta", self.rope_local_base_freq)
        if not isinstance(theta, int | float) or theta <= 0:
            raise LoadError(f"rope_theta must be a positive number, not {theta!r}")
        return float(theta)


class Gemma3VisionKeys(Gemma3Keys, frozen=True, kw_only=True):
    """A checkpoint with an image encoder, which has the same keys one level down."""

    section: ClassVar[str] = "text_config"


def _fields(keys: GgufKeys) -> dict[str, Any]:
    return {
        **gguf_fields(keys),
        "attention_scale": gguf_attention_scale(keys, layers_of_27b=62),
        "logit_softcap": keys.optional("final_logit_softcapping", Positive, 0.0),
        "windows": _windows(keys),
        "local_rope_theta": keys.optional("rope.freq_base_swa", Positive, 10000.0),
    }


def _windows(keys: GgufKeys) -> tuple[int, ...]:
    """Few files say which layers have a window; then it is five of six, as llama.cpp has it."""
    count = keys.required("block_count", int)
    window = keys.optional("attention.sliding_window", int, 0)
    pattern = keys.optional("attention.sliding_window_pattern", Count | list[bool], 6)
    if window <= 0:
        return ()
    if isinstance(pattern, int):
        return windows_of(alternating(count, pattern), count, window)
    types = [_LOCAL if is_local else _GLOBAL for is_local in pattern]
    return windows_of(types, count, window)


HF = {
    "Gemma3ForCausalLM": Gemma3Keys,
    "Gemma3ForConditionalGeneration": Gemma3VisionKeys,
}
GGUF = {"gemma3": GgufFamily("Gemma3ForCausalLM", _fields, SANDWICH_NAMES)}
