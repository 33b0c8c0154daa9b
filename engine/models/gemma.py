"""Gemma 1, Llama's shape with another gate, wide heads and norms around one."""

from engine.layers.decoder import Decoder


class GemmaForCausalLM(Decoder):
    """The embedding is scaled, and is the output projection too."""
