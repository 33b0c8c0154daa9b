"""Phi-3, 3.5 and 4, Llama's shape with fused projections."""

from engine.layers.decoder import Decoder


class Phi3ForCausalLM(Decoder):
    """There may be a sliding window, a part of each head left unturned, and LongRoPE."""
