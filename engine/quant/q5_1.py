"""Q5_1: 5 bits a weight, a scale and a least weight for 32. 6 bits in all. Source: ggml-quants.c.

Bytes: float16 d, float16 m, 4 with the fifth bits, then 16 as in Q4_0. A weight is d * q + m.
"""

import torch
from torch import Tensor

from engine.quant.bits import (
    half_bytes,
    halves,
    join_bits,
    join_bitset,
    split_bits,
    split_bitset,
)
from engine.quant.rounding import offset_codes
from engine.quant.row_format import Codes, RowFormat


def _unpack(blocks: Tensor) -> Codes:
    codes = split_bits(blocks[:, 8:], 4).flatten(1) | (split_bitset(blocks[:, 4:8]) << 4)
    return Codes(codes.to(torch.int8), halves(blocks[:, :2]), -halves(blocks[:, 2:4]))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    scale, least, codes = offset_codes(weights, 31)
    ends = [half_bytes(scale[:, 0]), half_bytes(least[:, 0])]
    nibbles = join_bits((codes & 15).view(-1, 2, 16), 4)
    return torch.cat([*ends, join_bitset(codes >> 4), nibbles], dim=1)


Q5_1 = RowFormat("Q5_1", 32, 24, _unpack, _encode)
