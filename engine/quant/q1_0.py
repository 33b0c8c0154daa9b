"""Q1_0: 128 signs and one scale. Source: ggml-quants.c, dequantize_row_q1_0."""

import numpy as np
from numpy.typing import NDArray


def unpack(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 18] to [N, 128]: float16 d, then a bit for each weight, lowest first; 1 is d, 0 is -d."""
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return np.where(bits, scale, -scale)
