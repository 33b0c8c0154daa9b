"""Q2_K: 2 bits a weight; scales and mins of 4 bits by 16. 2.625 bits in all. Source: ggml-quants.c.

Bytes: 16 with a scale in the low and a min in the high half; 64 with the codes; float16 d; float16
dmin. A weight is d * scale * q - dmin * min.
"""

import torch
from torch import Tensor

from engine.quant.bits import half_bytes, halves, join_bits, split_bits
from engine.quant.importance import importance_of
from engine.quant.k_affine import fit_blocks
from engine.quant.row_format import Codes, RowFormat

_GROUP = 16
_STEPS = tuple(step / 20 for step in range(-18, 19))


def _unpack(blocks: Tensor) -> Codes:
    scales, mins = blocks[:, :16] & 15, blocks[:, :16] >> 4
    codes = split_bits(blocks[:, 16:80].view(-1, 2, 32), 2).flatten(1)
    ends = halves(blocks[:, 80:84])
    return Codes(codes.to(torch.int8), ends[:, :1] * scales, ends[:, 1:] * mins)


def _encode(weights: Tensor, importance: Tensor | None) -> Tensor:
    matters = importance_of(weights, importance, _GROUP)
    fit = fit_blocks(weights, matters, 3, 15, _GROUP, _STEPS)
    codes = join_bits(fit.codes.view(-1, 2, 4, 32), 2).flatten(1)
    ends = [half_bytes(fit.scale), half_bytes(fit.min)]
    return torch.cat([fit.scales | (fit.mins << 4), codes, *ends], dim=1)


Q2_K = RowFormat("Q2_K", 256, 84, _unpack, _encode, takes_imatrix=True)
