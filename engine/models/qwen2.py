"""Qwen2 and Qwen2.5, Llama's shape with biases on query, key and value."""

from engine.layers.decoder import Decoder


class Qwen2ForCausalLM(Decoder):
    """Later layers may have a sliding window."""
