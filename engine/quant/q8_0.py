"""Q8_0: a byte a weight, one scale for 32 of them. 8.5 bits in all. Source: ggml-quants.c.

Bytes: float16 d, then int8 q. A weight is d * q.
"""

import torch
from torch import Tensor

from engine.quant.bits import half_bytes, halves
from engine.quant.rounding import inverse, round_away
from engine.quant.row_format import Codes, RowFormat


def _unpack(blocks: Tensor) -> Codes:
    return Codes(blocks[:, 2:].contiguous().view(torch.int8), halves(blocks[:, :2]))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    scale = weights.abs().amax(1, keepdim=True) / 127
    codes = round_away(weights * inverse(scale)).to(torch.int8)
    return torch.cat([half_bytes(scale[:, 0]), codes.view(torch.uint8)], dim=1)


Q8_0 = RowFormat("Q8_0", 32, 34, _unpack, _encode)
