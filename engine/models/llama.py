"""Llama 1, 2 and 3, and the many models of their shape."""

from engine.layers.decoder import Decoder


class LlamaForCausalLM(Decoder):
    """Grouped heads; rotary positions may be stretched; biases where the config asks for them."""
