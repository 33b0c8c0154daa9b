"""What the files of Qwen3 say."""

from typing import Any

from engine.weights.families.qwen2 import WindowSwitchKeys
from engine.weights.gguf_keys import GgufFamily
from engine.weights.hf_keys import Count


class Qwen3Keys(WindowSwitchKeys, frozen=True, kw_only=True):
    """Query and key are normalised per head; a head's size is not derived from the width."""

    head_dim: Count | None = 128

    def fields(self) -> dict[str, Any]:
        """Those of all Qwens, and the norms."""
        return {**super().fields(), "qk_norm": "head"}


HF = {"Qwen3ForCausalLM": Qwen3Keys}
GGUF = {"qwen3": GgufFamily("Qwen3ForCausalLM")}
