"""Qwen3 with experts: Qwen3's shape, where most layers have experts and some may have none."""

import torch

from engine.config import ModelConfig
from engine.layers.decoder import Decoder, DecoderLayer, FeedForward
from engine.layers.experts import Experts
from engine.layers.mlp import GatedMLP


class Qwen3MoeLayer(DecoderLayer):
    """Experts, or an MLP in the layers without."""

    def make_mlp(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> FeedForward:
        """The layer's experts or its MLP."""
        block = GatedMLP if layer in config.dense_layers else Experts
        return block(config, dtype, device)


class Qwen3MoeForCausalLM(Decoder):
    """The head size is the config's own; a sliding window is every layer's."""

    layer_class = Qwen3MoeLayer
