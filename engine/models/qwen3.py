"""Qwen3: query and key are normalised per head, and the head size is the config's own."""

import torch

from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.decoder import Decoder, DecoderLayer
from engine.layers.mlp import GatedMLP


class Qwen3ForCausalLM(Decoder):
    """The window, if there is one, starts at layer `first_window_layer`."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        def layer(index: int) -> DecoderLayer:
            window = config.sliding_window if index >= config.first_window_layer else None
            attention = Attention(config, dtype, device, window=window or 0)
            mlp = GatedMLP(config, dtype, device)
            return DecoderLayer(config, dtype, device, attention=attention, mlp=mlp)

        super().__init__(config, dtype, device, layer)
