"""Q5_0: 5 bits a weight, one scale for 32 of them. 5.5 bits in all. Source: ggml-quants.c.

Bytes: float16 d, 4 with the fifth bits, then 16 as in Q4_0. A weight is d * (q - 16).
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
from engine.quant.rounding import signed_codes
from engine.quant.row_format import Codes, RowFormat


def _unpack(blocks: Tensor) -> Codes:
    codes = split_bits(blocks[:, 6:], 4).flatten(1) | (split_bitset(blocks[:, 2:6]) << 4)
    return Codes(codes.to(torch.int8) - 16, halves(blocks[:, :2]))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    scale, codes = signed_codes(weights, 16)
    nibbles = join_bits((codes & 15).view(-1, 2, 16), 4)
    return torch.cat([half_bytes(scale[:, 0]), join_bitset(codes >> 4), nibbles], dim=1)


Q5_0 = RowFormat("Q5_0", 32, 22, _unpack, _encode)
