"""Llama 1, 2 and 3, and the many models of their shape. Every layer sees the whole context."""

import torch

from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.decoder import Decoder, DecoderLayer
from engine.layers.mlp import GatedMLP


class LlamaForCausalLM(Decoder):
    """Grouped heads; rotary positions may be stretched; biases where the config asks for them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        def layer(_index: int) -> DecoderLayer:
            attention = Attention(config, dtype, device)
            mlp = GatedMLP(config, dtype, device)
            return DecoderLayer(config, dtype, device, attention=attention, mlp=mlp)

        super().__init__(config, dtype, device, layer)
