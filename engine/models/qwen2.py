"""Qwen2 and Qwen2.5: biases on query, key and value; later layers may have a sliding window."""

import torch

from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.decoder import Decoder, DecoderLayer
from engine.layers.mlp import GatedMLP


class Qwen2ForCausalLM(Decoder):
    """The window, if there is one, starts at layer `first_window_layer`."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        def layer(index: int) -> DecoderLayer:
            window = config.sliding_window if index >= config.first_window_layer else None
            attention = Attention(config, dtype, device, window=window or 0)
            mlp = GatedMLP(config, dtype, device)
            return DecoderLayer(config, dtype, device, attention=attention, mlp=mlp)

        super().__init__(config, dtype, device, layer)
