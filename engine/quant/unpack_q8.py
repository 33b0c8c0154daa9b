"""Q8_1 and Q8_K unpacked without torch, for reading files. q8_1.py and q8_k.py also pack them.

Source: ggml-common.h.
"""

import numpy as np
from numpy.typing import NDArray


def unpack_q8_1(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 36] to [N, 32]: float16 d, float16 sum (not needed), then int8 q; a weight is d * q."""
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return scale * blocks[:, 4:].view(np.int8).astype(np.float32)


def unpack_q8_k(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 292] to [N, 256]: float32 d, int8 q, then int16 sums (not needed); a weight is d * q."""
    scale = blocks[:, :4].copy().view("<f4")
    return scale * blocks[:, 4:260].view(np.int8).astype(np.float32)
