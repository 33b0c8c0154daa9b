"""What the files of SmolLM3 say."""

from typing import Any

from engine.errors import LoadError
from engine.weights.gguf_keys import Count, GgufFamily, GgufKeys
from engine.weights.hf_keys import Positive, RmsNormKeys, windows_of

_INTERVAL = 4  # of layers without rotary positions; llama.cpp's constant for all files


class SmolLM3Keys(RmsNormKeys, frozen=True, kw_only=True):
    """`no_rope_layers` has a 1 for each layer with rotary positions, a 0 for each without."""

    num_key_value_heads: Count | None = 4
    rope_theta: Positive = 2e6
    tie_word_embeddings: bool = True
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Count = _INTERVAL
    use_sliding_window: bool = False
    sliding_window: Count | None = None
    layer_types: list[str] | None = None

    def fields(self) -> dict[str, Any]:
        """Llama's, the layers without rotary positions, and the windows."""
        free = self._rope_free_layers()
        return {**super().fields(), "rope_free_layers": free, "windows": self._windows(free)}

    def _rope_free_layers(self) -> tuple[int, ...]:
        if self.no_rope_layers is None:
            return _every(self.no_rope_layer_interval, self.num_hidden_layers)
        if len(self.no_rope_layers) < self.num_hidden_layers:
            raise LoadError(f"no_rope_layers must have {self.num_hidden_layers} entries or more")
        flags = self.no_rope_layers[: self.num_hidden_layers]
        return tuple(layer for layer, has_rope in enumerate(flags) if not has_rope)

    def _windows(self, rope_free: tuple[int, ...]) -> tuple[int, ...]:
        if not self.use_sliding_window or self.sliding_window is None:
            return ()
        types = self.layer_types or [
            "sliding_attention" if layer in rope_free else "full_attention"
            for layer in range(self.num_hidden_layers)
        ]
        return windows_of(types, self.num_hidden_layers, self.sliding_window)


def _every(interval: int, num_layers: int) -> tuple[int, ...]:
    return tuple(range(interval - 1, num_layers, interval))


def _fields(keys: GgufKeys) -> dict[str, Any]:
    return {"rope_free_layers": _every(_INTERVAL, keys.required("block_count", Count))}


HF = {"SmolLM3ForCausalLM": SmolLM3Keys}
# llama.cpp converts it as it does Llama.
GGUF = {"smollm3": GgufFamily("SmolLM3ForCausalLM", _fields, is_permuted=True)}
