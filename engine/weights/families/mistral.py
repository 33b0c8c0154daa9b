"""What the files of Mistral 7B and its kin say; their GGUF files are llama's."""

from typing import Any

from engine.weights.hf_keys import Count, RmsNormKeys


class MistralKeys(RmsNormKeys, frozen=True, kw_only=True):
    """Every layer has the window; without the key it is that of Mistral 7B v0.1."""

    sliding_window: Count | None = 4096

    def fields(self) -> dict[str, Any]:
        """Llama's, and the windows."""
        window = self.sliding_window or 0
        return {**super().fields(), "windows": (window,) * self.num_hidden_layers}


HF = {"MistralForCausalLM": MistralKeys}
