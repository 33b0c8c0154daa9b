"""Qwen3, Llama's shape with normalised queries and keys."""

from engine.layers.decoder import Decoder


class Qwen3ForCausalLM(Decoder):
    """The head size is the config's own; later layers may have a sliding window."""
