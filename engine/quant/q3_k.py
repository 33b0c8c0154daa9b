"""Q3_K: 3 bits a weight; scales of 6 bits by 16. 3.4375 bits in all. Source: ggml-quants.c.

Bytes: 32 with the codes' third bits; 64 with their low two; 12 with the scales; float16 d. A weight
is d * (scale - 32) * (q - 4).
"""

import torch
from torch import Tensor

from engine.quant.bits import half_bytes, halves, join_bits, split_bits
from engine.quant.importance import importance_of
from engine.quant.k_signed import fit_signed
from engine.quant.row_format import Codes, RowFormat

_GROUP = 16
_STEPS = tuple(step / 10 for step in range(-9, 10))


def _unpack(blocks: Tensor) -> Codes:
    high = split_bits(blocks[:, :32], 1).flatten(1)
    codes = split_bits(blocks[:, 32:96].view(-1, 2, 32), 2).flatten(1) | (high << 2)
    scales = _split_scales(blocks[:, 96:108])
    return Codes(codes.to(torch.int8) - 4, halves(blocks[:, 108:]) * scales)


def _encode(weights: Tensor, importance: Tensor | None) -> Tensor:
    fit = fit_signed(weights, importance_of(weights, importance, _GROUP), 4, 32, _STEPS)
    codes = (fit.codes + 4).view(torch.uint8)
    high = join_bits((codes >> 2).view(-1, 8, 32), 1)
    low = join_bits((codes & 3).view(-1, 2, 4, 32), 2).flatten(1)
    return torch.cat([high, low, _join_scales(fit.scales), half_bytes(fit.scale)], dim=1)


def _split_scales(packed: Tensor) -> Tensor:
    """16 numbers from -32 to 31: eight bytes have their low halves, four their high bits."""
    low = split_bits(packed[:, :8], 4).flatten(1)
    high = split_bits(packed[:, 8:], 2).flatten(1)
    return (low | (high << 4)).to(torch.int8) - 32


def _join_scales(scales: Tensor) -> Tensor:
    numbers = (scales + 32).view(torch.uint8)
    low = join_bits((numbers & 15).view(-1, 2, 8), 4)
    return torch.cat([low, join_bits((numbers >> 4).view(-1, 4, 4), 2)], dim=1)


Q3_K = RowFormat("Q3_K", 256, 110, _unpack, _encode, takes_imatrix=True)
