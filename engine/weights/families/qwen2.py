"""What the files of Qwen2 and Qwen2.5 say."""

from typing import Any

from engine.weights.gguf_keys import GgufFamily
from engine.weights.hf_keys import Count, RmsNormKeys, windows_of


class WindowSwitchKeys(RmsNormKeys, frozen=True, kw_only=True):
    """A window that is used only if a switch says so, and by the later layers."""

    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    def fields(self) -> dict[str, Any]:
        """Llama's, and the windows."""
        return {**super().fields(), "windows": self._windows()}

    def _windows(self) -> tuple[int, ...]:
        if not self.use_sliding_window or self.sliding_window is None:
            return ()
        first = max(self.max_window_layers, 0)
        types = self.layer_types or [
            "sliding_attention" if layer >= first else "full_attention"
            for layer in range(self.num_hidden_layers)
        ]
        return windows_of(types, self.num_hidden_layers, self.sliding_window)


class Qwen2Keys(WindowSwitchKeys, frozen=True, kw_only=True):
    """Biases on query, key and value, always."""

    def fields(self) -> dict[str, Any]:
        """Those of all Qwens, and the biases."""
        return {**super().fields(), "attention_bias": True, "attention_output_bias": False}


HF = {"Qwen2ForCausalLM": Qwen2Keys}
GGUF = {"qwen2": GgufFamily("Qwen2ForCausalLM")}
