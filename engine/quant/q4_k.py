"""Q4_K: 4 bits a weight; scales and mins of 6 bits by 32. 4.5 bits in all. Source: ggml-quants.c.

Bytes: float16 d; float16 dmin; 12 with the scales and mins; 128 with the codes, 32 low halves then
32 high ones. A weight is d * scale * q - dmin * min.
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
_STEPS = tuple(step / 10 for step in range(-10, 11))


def _unpack(blocks: Tensor) -> Codes:
    ends = halves(blocks[:, :4])
    scales, mins = split_six_bits(blocks[:, 4:16])
    codes = split_bits(blocks[:, 16:].view(-1, 4, 32), 4).flatten(1)
    return Codes(codes.to(torch.int8), ends[:, :1] * scales, ends[:, 1:] * mins)


def _encode(weights: Tensor, importance: Tensor | None) -> Tensor:
    matters = importance_of(weights, importance, _GROUP)
    fit = fit_blocks(weights, matters, 15, 63, _GROUP, _STEPS)
    codes = join_bits(fit.codes.view(-1, 4, 2, 32), 4).flatten(1)
    ends = [half_bytes(fit.scale), half_bytes(fit.min)]
    return torch.cat([*ends, join_six_bits(fit.scales, fit.mins), codes], dim=1)


Q4_K = RowFormat("Q4_K", 256, 144, _unpack, _encode, takes_imatrix=True)
