"""Q4_1: 4 bits a weight, a scale and a least weight for 32. 5 bits in all. Source: ggml-quants.c.

Bytes: float16 d, float16 m, then 16 as in Q4_0. A weight is d * q + m.
"""

import torch
from torch import Tensor

from engine.quant.bits import half_bytes, halves, join_bits, split_bits
from engine.quant.rounding import offset_codes
from engine.quant.row_format import Codes, RowFormat


def _unpack(blocks: Tensor) -> Codes:
    codes = split_bits(blocks[:, 4:], 4).flatten(1)
    return Codes(codes.to(torch.int8), halves(blocks[:, :2]), -halves(blocks[:, 2:4]))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    scale, least, codes = offset_codes(weights, 15)
    nibbles = join_bits(codes.view(-1, 2, 16), 4)
    return torch.cat([half_bytes(scale[:, 0]), half_bytes(least[:, 0]), nibbles], dim=1)


Q4_1 = RowFormat("Q4_1", 32, 20, _unpack, _encode)
