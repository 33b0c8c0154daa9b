"""Block formats of GGML files before GGJT version 3. Knows blocks, no files. Torch-free.

Their history: llama.cpp's pull request 1405 (GGJT 2) moved the second half of a block's weights to
the high nibbles, which before held every other weight; 1508 (GGJT 3) halved the scales of Q4_0,
Q4_1 and Q8_0 to float16. Q5_0 and Q5_1 had float16 scales from the beginning.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from engine.quant.block_format import BlockFormat, block_format

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Nibbles = Callable[[Bytes], Bytes]  # [N, 16] bytes to [N, 32] numbers below 16

_LAST_INTERLEAVED = 1
_LAST_FLOAT32 = 2
_GGJT_3 = frozenset(
    GGMLQuantizationType[name]
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
)


def ggjt_format(kind: GGMLQuantizationType, version: int) -> BlockFormat:
    """The format of a packed type in GGJT `version`; files older than GGJT count as version 1.

    Raises ValueError for a type that such a file cannot have.
    """
    if version > _LAST_FLOAT32 and kind in _GGJT_3:
        return block_format(kind)
    nibbles = _interleaved if version <= _LAST_INTERLEAVED else _halves
    formats = {
        GGMLQuantizationType.Q4_0: BlockFormat("Q4_0", 32, 20, partial(_q4_0, nibbles)),
        GGMLQuantizationType.Q4_1: BlockFormat("Q4_1", 32, 24, partial(_q4_1, nibbles)),
        GGMLQuantizationType.Q5_0: BlockFormat("Q5_0", 32, 22, partial(_q5_0, nibbles)),
        GGMLQuantizationType.Q5_1: BlockFormat("Q5_1", 32, 24, partial(_q5_1, nibbles)),
        GGMLQuantizationType.Q8_0: BlockFormat("Q8_0", 32, 36, _q8_0),
    }
    if version > _LAST_FLOAT32 or kind not in formats:
        raise ValueError(f"version {version} does not have that type")
    return formats[kind]


def _interleaved(packed: Bytes) -> Bytes:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _halves(packed: Bytes) -> Bytes:
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q4_0(nibbles: Nibbles, blocks: Bytes) -> Floats:
    scale = blocks[:, :4].copy().view(np.float32)
    return scale * (nibbles(blocks[:, 4:]).astype(np.float32) - 8)


def _q4_1(nibbles: Nibbles, blocks: Bytes) -> Floats:
    scale, least = blocks[:, :4].copy().view(np.float32), blocks[:, 4:8].copy().view(np.float32)
    return scale * nibbles(blocks[:, 8:]).astype(np.float32) + least


def _q5_0(nibbles: Nibbles, blocks: Bytes) -> Floats:
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return scale * (_five_bits(nibbles, blocks[:, 2:]).astype(np.float32) - 16)


def _q5_1(nibbles: Nibbles, blocks: Bytes) -> Floats:
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    least = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    return scale * _five_bits(nibbles, blocks[:, 4:]).astype(np.float32) + least


def _five_bits(nibbles: Nibbles, packed: Bytes) -> Bytes:
    """Fifth bits come first, four bytes of them, in the order of the weights in any version."""
    high = np.unpackbits(packed[:, :4], axis=1, bitorder="little")
    return nibbles(packed[:, 4:]) | (high * np.uint8(16))


def _q8_0(blocks: Bytes) -> Floats:
    scale = blocks[:, :4].copy().view(np.float32)
    return scale * blocks[:, 4:].view(np.int8).astype(np.float32)
