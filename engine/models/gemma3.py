"""Gemma 3: Gemma 2's layers with normalised queries and keys in place of bounds."""

from engine.layers.decoder import Decoder
from engine.layers.sandwich import SandwichLayer
from engine.weights.checkpoint import Checkpoint
from engine.weights.text_part import TextPart


class Gemma3ForCausalLM(Decoder):
    """Five layers with a window and rotary positions of their own, then one without; and so on."""

    layer_class = SandwichLayer


class Gemma3ForConditionalGeneration(Gemma3ForCausalLM):
    """The checkpoints that see pictures, 4B and larger, for text alone."""

    def part_of(self, checkpoint: Checkpoint) -> Checkpoint:
        """Without what belongs to pictures."""
        return TextPart(checkpoint)
