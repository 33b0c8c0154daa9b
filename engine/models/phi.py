"""Phi-1, 1.5 and 2: attention and feed-forward side by side on one norm, biases everywhere."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.decoder import Decoder, Layer
from engine.layers.mlp import MLP
from engine.layers.norm import make_norm
from engine.layers.rotary import Rotation
from engine.weights.loader import Loader


class PhiLayer(Layer):
    """`x + attention(norm(x)) + mlp(norm(x))`."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__(config, dtype, device, layer)
        self.input_norm = make_norm(config, dtype, device)
        self.attention = Attention(config, dtype, device, layer)
        self.mlp = MLP(config, dtype, device, ("fc1", "fc2"))

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the tensors below `prefix`."""
        self.input_norm.load(loader, f"{prefix}.input_layernorm")
        self.attention.load(
            loader, f"{prefix}.self_attn", output="dense", norms=("q_layernorm", "k_layernorm")
        )
        self.mlp.load(loader, f"{prefix}.mlp")

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
        return self.attention(x, batch, rotations, kv_cache) + self.mlp(x), residual


class PhiForCausalLM(Decoder):
    """A part of each head is turned; the output layer has a bias too."""

    layer_class = PhiLayer
    final_norm = "model.final_layernorm"
