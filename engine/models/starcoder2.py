"""StarCoder2, Llama's shape with layer norms, biases and a plain feed-forward block."""

import torch

from engine.config import ModelConfig
from engine.layers.decoder import Decoder, DecoderLayer, FeedForward
from engine.layers.mlp import MLP


class Starcoder2Layer(DecoderLayer):
    """A decoder's layer whose feed-forward block has no gate."""

    def make_mlp(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, _layer: int
    ) -> FeedForward:
        """The layer's feed-forward block."""
        return MLP(config, dtype, device, ("c_fc", "c_proj"))


class Starcoder2ForCausalLM(Decoder):
    """The sliding window, if there is one, is every layer's."""

    layer_class = Starcoder2Layer
