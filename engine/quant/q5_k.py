"""Q5_K: 5 bits a weight; scales and mins of 6 bits by 32. 5.5 bits in all. Source: ggml-quants.c.

Bytes: float16 d; float16 dmin; 12 with the scales and mins; 32 with the codes' fifth bits; 128 as
in Q4_K. A weight is d * scale * q - dmin * min.
"""

import torch
from torch import Tensor

from engine.quant.bits import (
    half_bytes,
    halves,
    join_bits,
    join_six_bits,
    split_bits,
    split_six_bits,
)
from engine.quant.importance import importance_of
from engine.quant.k_affine import fit_blocks
from engine.quant.row_format import Codes, RowFormat

_GROUP = 32
_STEPS = tuple(step / 10 for step in range(-5, 11))


def _unpack(blocks: Tensor) -> Codes:
    ends = halves(blocks[:, :4])
    scales, mins = split_six_bits(blocks[:, 4:16])
    high = split_bits(blocks[:, 16:48], 1).flatten(1)
    codes = split_bits(blocks[:, 48:].view(-1, 4, 32), 4).flatten(1) | (high << 4)
    return Codes(codes.to(torch.int8), ends[:, :1] * scales, ends[:, 1:] * mins)


def _encode(weights: Tensor, importance: Tensor | None) -> Tensor:
    matters = importance_of(weights, importance, _GROUP)
    fit = fit_blocks(weights, matters, 31, 63, _GROUP, _STEPS)
    high = join_bits((fit.codes >> 4).view(-1, 8, 32), 1)
    low = join_bits((fit.codes & 15).view(-1, 4, 2, 32), 4).flatten(1)
    ends = [half_bytes(fit.scale), half_bytes(fit.min)]
    return torch.cat([*ends, join_six_bits(fit.scales, fit.mins), high, low], dim=1)


Q5_K = RowFormat("Q5_K", 256, 176, _unpack, _encode, takes_imatrix=True)
