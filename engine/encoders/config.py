"""The shape of an encoder, as plain data. Knows no torch and no file."""

from engine.config import ModelConfig


class EncoderConfig(ModelConfig, frozen=True, kw_only=True):
    """What an encoder has that a decoder has not. A window counts the tokens on each side."""

    num_positions: int = 0  # rows of the table of learned positions; 0: they are rotary
    position_offset: int = 0  # the row of a text's first token
    num_types: int = 0  # rows of the table of token types; 0: there is none
    is_pre_norm: bool = False  # each block's input is normalised, not its sum with the output
    is_gated: bool = False
    has_norm_bias: bool = True
