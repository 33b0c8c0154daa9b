"""How the weights of each packed GGML type are stored, and unpacked. Knows blocks, no files.

Torch-free. gguf-py unpacks most types; those it cannot have a file of their own here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from engine.quant import q1_0, q8_1, q8_k

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class BlockFormat(NamedTuple):
    """`unpack` takes blocks [N, num_bytes] and gives weights [N, num_weights] in float32.

    Blocks lie along a tensor's last dimension. Scales that are infinite or no number give weights
    that are so too, without a warning.
    """

    name: str
    num_weights: int
    num_bytes: int
    unpack: Callable[[Bytes], Floats]


def block_format(kind: GGMLQuantizationType) -> BlockFormat:
    """The format of a packed type of GGUF files, as ggml-quants.c has it today."""
    if kind in _OWN:
        return _OWN[kind]
    num_weights, num_bytes = GGML_QUANT_SIZES[kind]
    return BlockFormat(kind.name, num_weights, num_bytes, partial(_by_gguf_py, kind))


def _by_gguf_py(kind: GGMLQuantizationType, blocks: Bytes) -> Floats:
    # As one long row: gguf-py works through 16 rows at a time, however short they are.
    weights: Floats = dequantize(blocks.reshape(1, -1), kind)
    return weights.reshape(len(blocks), -1)


_OWN = {
    GGMLQuantizationType.Q1_0: BlockFormat("Q1_0", 128, 18, q1_0.unpack),
    # gguf-py counts 40 bytes, of the time when both scales were float32.
    GGMLQuantizationType.Q8_1: BlockFormat("Q8_1", 32, 36, q8_1.unpack),
    GGMLQuantizationType.Q8_K: BlockFormat("Q8_K", 256, 292, q8_k.unpack),
}
