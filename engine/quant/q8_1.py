"""Q8_1: Q8_0 and the sum of its weights, which ggml's dot products want. 9 bits in all.

Bytes: float16 d, float16 d * sum of q, then int8 q. A weight is d * q. Source: ggml-quants.c.
"""

import torch
from torch import Tensor

from engine.quant.bits import half_bytes, halves
from engine.quant.rounding import inverse, round_away
from engine.quant.row_format import Codes, RowFormat


def _unpack(blocks: Tensor) -> Codes:
    return Codes(blocks[:, 4:].contiguous().view(torch.int8), halves(blocks[:, :2]))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    scale = weights.abs().amax(1, keepdim=True) / 127
    codes = round_away(weights * inverse(scale))
    ends = [half_bytes(scale[:, 0]), half_bytes(codes.sum(1) * scale[:, 0])]
    return torch.cat([*ends, codes.to(torch.int8).view(torch.uint8)], dim=1)


Q8_1 = RowFormat("Q8_1", 32, 36, _unpack, _encode)
