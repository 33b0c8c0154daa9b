"""Q8_1: 32 bytes, a scale, and the sum that ggml's dot products want. Source: ggml-common.h."""

import numpy as np
from numpy.typing import NDArray


def unpack(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 36] to [N, 32]: float16 d, float16 sum (not needed), then int8 q; a weight is d * q."""
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return scale * blocks[:, 4:].view(np.int8).astype(np.float32)
