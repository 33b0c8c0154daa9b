"""What the files of Mixtral say; its GGUF files are llama's."""

from typing import Any

from engine.weights.families.mistral import MistralKeys
from engine.weights.hf_keys import Count, Positive


class MixtralKeys(MistralKeys, frozen=True, kw_only=True):
    """Every layer has experts, as wide as an MLP would be. A chosen expert's weight is relative."""

    num_key_value_heads: Count | None = 8
    rope_theta: Positive = 1e6
    sliding_window: Count | None = None
    num_local_experts: Count = 8
    num_experts_per_tok: Count = 2

    def fields(self) -> dict[str, Any]:
        """Mistral's, and the experts."""
        return {
            **super().fields(),
            "num_experts": self.num_local_experts,
            "num_experts_per_token": self.num_experts_per_tok,
            "expert_intermediate_size": self.intermediate_size,
            "is_topk_normalised": True,
        }


HF = {"MixtralForCausalLM": MixtralKeys}
