"""Gemma 2: norms on both sides of a block, bounded scores and logits."""

from engine.layers.decoder import Decoder
from engine.layers.sandwich import SandwichLayer


class Gemma2ForCausalLM(Decoder):
    """Every second layer has a sliding window."""

    layer_class = SandwichLayer
