"""Mistral 7B and its kin, Llama's shape with a sliding window."""

from engine.layers.decoder import Decoder


class MistralForCausalLM(Decoder):
    """The window, if there is one, is every layer's."""
