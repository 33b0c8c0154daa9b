"""A decoder layer whose two blocks are normalised on the way in and on the way out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.decoder import DecoderLayer
from engine.layers.norm import make_norm
from engine.layers.rotary import Rotation
from engine.weights.loader import Loader


class SandwichLayer(DecoderLayer):
    """What a block adds is normalised before it is added.

    So `post_attention_norm` follows the attention, and the feed-forward block has two of its own.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__(config, dtype, device, layer)
        self.pre_feedforward_norm = make_norm(config, dtype, device)
        self.post_feedforward_norm = make_norm(config, dtype, device)

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the tensors below `prefix`."""
        super().load(loader, prefix)
        self.pre_feedforward_norm.load(loader, f"{prefix}.pre_feedforward_layernorm")
        self.post_feedforward_norm.load(loader, f"{prefix}.post_feedforward_layernorm")

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        batch: Batch,
        rotations: Sequence[Rotation],
        kv_cache: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """As `Layer` has it."""
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x = self.post_attention_norm(self.attention(x, batch, rotations, kv_cache))
        x, residual = self.pre_feedforward_norm.add(x, residual)
        return self.post_feedforward_norm(self.mlp(x)), residual
