"""Q8_K: a byte a weight, a float32 scale for 256, and sums by sixteens. 9.125 bits in all.

Bytes: float32 d, int8 q, then 16 int16 sums. A weight is d * q. Source: ggml-quants.c.
"""

import torch
from torch import Tensor

from engine.quant.rounding import inverse
from engine.quant.row_format import Codes, RowFormat


def _unpack(blocks: Tensor) -> Codes:
    codes = blocks[:, 4:260].contiguous().view(torch.int8)
    return Codes(codes, blocks[:, :4].contiguous().view(torch.float32))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    furthest = weights.gather(1, weights.abs().argmax(1, keepdim=True))
    to_code = -127 * inverse(furthest)
    codes = (weights * to_code).round_().clamp_(max=127).to(torch.int8)
    sums = codes.view(-1, 16, 16).sum(2).to(torch.int16)
    parts = [inverse(to_code), codes, sums]
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)


Q8_K = RowFormat("Q8_K", 256, 292, _unpack, _encode)
