"""SmolLM3, Llama's shape with layers whose queries and keys are not turned."""

from engine.layers.decoder import Decoder


class SmolLM3ForCausalLM(Decoder):
    """Only the layers without rotary positions may have a sliding window."""
