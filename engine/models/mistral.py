"""Mistral 7B and its kin: Llama's shape with a sliding window in every layer."""

import torch

from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.decoder import Decoder, DecoderLayer
from engine.layers.mlp import GatedMLP


class MistralForCausalLM(Decoder):
    """A token sees itself and the `sliding_window - 1` before it, or without a window all."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        def layer(_index: int) -> DecoderLayer:
            attention = Attention(config, dtype, device, window=config.sliding_window or 0)
            mlp = GatedMLP(config, dtype, device)
            return DecoderLayer(config, dtype, device, attention=attention, mlp=mlp)

        super().__init__(config, dtype, device, layer)
