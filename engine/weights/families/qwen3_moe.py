"""What the files of Qwen3 with experts say."""

from typing import Any

from engine.weights.gguf_experts import expert_fields
from engine.weights.gguf_keys import GgufFamily, GgufKeys
from engine.weights.hf_keys import Count, RmsNormKeys


class Qwen3MoeKeys(RmsNormKeys, frozen=True, kw_only=True):
    """Every `decoder_sparse_step`-th layer has experts, unless it is one of `mlp_only_layers`.

    transformers 5 calls `num_experts` num_local_experts.
    """

    num_key_value_heads: Count | None = 4
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    moe_intermediate_size: Count = 768
    num_experts: int = 128
    num_local_experts: int | None = None
    num_experts_per_tok: Count = 8
    norm_topk_prob: bool = False
    decoder_sparse_step: Count = 1
    mlp_only_layers: list[int] | None = None

    def fields(self) -> dict[str, Any]:
        """Llama's, the norms of queries and keys, and the experts."""
        num_experts = self.num_local_experts
        num_experts = self.num_experts if num_experts is None else num_experts
        window = (self.sliding_window or 0) if self.use_sliding_window else 0
        return {
            **super().fields(),
            "qk_norm": "head",
            "windows": (window,) * self.num_hidden_layers if window else (),
            "num_experts": num_experts,
            "num_experts_per_token": self.num_experts_per_tok,
            "expert_intermediate_size": self.moe_intermediate_size,
            "is_topk_normalised": self.norm_topk_prob,
            "dense_layers": self._dense_layers(num_experts),
        }

    def _dense_layers(self, num_experts: int) -> tuple[int, ...]:
        dense = set(self.mlp_only_layers or ())
        return tuple(
            layer
            for layer in range(self.num_hidden_layers)
            if num_experts <= 0 or layer in dense or (layer + 1) % self.decoder_sparse_step
        )


def _fields(keys: GgufKeys) -> dict[str, Any]:
    return expert_fields(keys, keys.required("expert_feed_forward_length", Count))


HF = {"Qwen3MoeForCausalLM": Qwen3MoeKeys}
GGUF = {"qwen3moe": GgufFamily("Qwen3MoeForCausalLM", _fields)}
