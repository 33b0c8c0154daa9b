"""Q4_0: 4 bits a weight, one scale for 32 of them. 4.5 bits in all. Source: ggml-quants.c.

Bytes: float16 d, then 16 with weights 0-15 in their low and 16-31 in their high halves. A weight is
d * (q - 8).
"""

import torch
from torch import Tensor

from engine.quant.bits import half_bytes, halves, join_bits, split_bits
from engine.quant.rounding import signed_codes
from engine.quant.row_format import Codes, RowFormat


def _unpack(blocks: Tensor) -> Codes:
    codes = split_bits(blocks[:, 2:], 4).flatten(1)
    return Codes(codes.to(torch.int8) - 8, halves(blocks[:, :2]))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    scale, codes = signed_codes(weights, 8)
    return torch.cat([half_bytes(scale[:, 0]), join_bits(codes.view(-1, 2, 16), 4)], dim=1)


Q4_0 = RowFormat("Q4_0", 32, 18, _unpack, _encode)
