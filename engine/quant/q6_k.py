"""Q6_K: 6 bits a weight; scales of 8 bits by 16. 6.5625 bits in all. Source: ggml-quants.c.

Bytes: 128 with the codes' low four bits; 64 with their high two; 16 int8 scales; float16 d. A
weight is d * scale * (q - 32).
"""

import torch
from torch import Tensor

from engine.quant.bits import half_bytes, halves, join_bits, split_bits
from engine.quant.k_signed import fit_signed
from engine.quant.row_format import Codes, RowFormat

_STEPS = tuple(step / 10 for step in range(-9, 10))


def _unpack(blocks: Tensor) -> Codes:
    low = split_bits(blocks[:, :128].view(-1, 2, 64), 4).flatten(1)
    high = split_bits(blocks[:, 128:192].view(-1, 2, 32), 2).flatten(1)
    scales = blocks[:, 192:208].contiguous().view(torch.int8)
    return Codes((low | (high << 4)).to(torch.int8) - 32, halves(blocks[:, 208:]) * scales)


def _encode(weights: Tensor, importance: Tensor | None) -> Tensor:
    matters = weights.square() if importance is None else importance
    fit = fit_signed(weights, matters, 32, 128, _STEPS)
    codes = (fit.codes + 32).view(torch.uint8)
    low = join_bits((codes & 15).view(-1, 2, 2, 64), 4).flatten(1)
    high = join_bits((codes >> 4).view(-1, 2, 4, 32), 2).flatten(1)
    scales = fit.scales.view(torch.uint8)
    return torch.cat([low, high, scales, half_bytes(fit.scale)], dim=1)


Q6_K = RowFormat("Q6_K", 256, 210, _unpack, _encode, takes_imatrix=True)
