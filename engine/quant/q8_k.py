"""Q8_K: 256 bytes, a scale, and their sums by sixteens. Source: ggml-common.h, block_q8_K."""

import numpy as np
from numpy.typing import NDArray


def unpack(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 292] to [N, 256]: float32 d, int8 q, then int16 sums (not needed); a weight is d * q."""
    scale = blocks[:, :4].copy().view(np.float32)
    return scale * blocks[:, 4:260].view(np.int8).astype(np.float32)
