"""Turns today's blocks into those of GGML files before GGJT 3, as llama.cpp's history has them."""

import numpy as np
from gguf import GGMLQuantizationType as Type

# float16 numbers at the beginning of a block, and whether they were float32 before version 3.
_SCALES = {
    Type.Q4_0: (1, True),
    Type.Q4_1: (2, True),
    Type.Q5_0: (1, False),
    Type.Q5_1: (2, False),
    Type.Q8_0: (1, True),
}


def to_old_blocks(blocks, kind, version):
    """Blocks [N, bytes] of version 3 with the same weights as version 1 or 2 stored them."""
    if version == 3:
        return blocks
    count, were_float32 = _SCALES[kind]
    head, rest = blocks[:, : 2 * count], blocks[:, 2 * count :]
    if were_float32:
        head = head.copy().view("<f2").astype("<f4").view(np.uint8)
    if version == 1 and kind is not Type.Q8_0:
        fifth_bits, nibbles = rest[:, :-16], rest[:, -16:]
        rest = np.concatenate([fifth_bits, _interleave(nibbles)], axis=1)
    return np.concatenate([head, rest], axis=1)


def _interleave(nibbles):
    """Weight i and i + 16 in one byte become weight 2i and 2i + 1 in one byte."""
    numbers = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    return numbers[:, 0::2] | (numbers[:, 1::2] << 4)
