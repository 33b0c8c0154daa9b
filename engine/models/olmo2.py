"""OLMo 2, which normalises what a block gives instead of what it takes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.decoder import Decoder, Layer
from engine.layers.mlp import GatedMLP
from engine.layers.norm import make_norm
from engine.layers.rotary import Rotation
from engine.weights.loader import Loader


class Olmo2Layer(Layer):
    """Attention, then the MLP, each on the sum of all before it, each normalised afterwards."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__(config, dtype, device, layer)
        self.attention = Attention(config, dtype, device, layer)
        self.post_attention_norm = make_norm(config, dtype, device)
        self.mlp = GatedMLP(config, dtype, device)
        self.post_mlp_norm = make_norm(config, dtype, device)

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the tensors below `prefix`."""
        self.attention.load(loader, f"{prefix}.self_attn")
        self.post_attention_norm.load(loader, f"{prefix}.post_attention_layernorm")
        self.mlp.load(loader, f"{prefix}.mlp")
        self.post_mlp_norm.load(loader, f"{prefix}.post_feedforward_layernorm")

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        batch: Batch,
        rotations: Sequence[Rotation],
        kv_cache: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """As `Layer` has it."""
        hidden = x if residual is None else x + residual
        attended = self.attention(hidden, batch, rotations, kv_cache)
        hidden = hidden + self.post_attention_norm(attended)
        return self.post_mlp_norm(self.mlp(hidden)), hidden


class Olmo2ForCausalLM(Decoder):
    """Query and key are normalised over all heads of a token at once."""

    layer_class = Olmo2Layer
