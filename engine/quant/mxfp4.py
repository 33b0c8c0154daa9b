"""MXFP4: 4-bit floats (E2M1) that share an exponent (E8M0) by 32. 4.25 bits in all.

Bytes: the exponent, then 16 as in Q4_0. A weight is 2 ** (e - 128) * twice its float, so that codes
are integers. Sources: ggml-quants.c; OCP Microscaling Formats 1.0.
"""

import torch
from torch import Tensor

from engine.quant.bits import join_bits, split_bits
from engine.quant.row_format import Codes, RowFormat

_SIZES = (0, 1, 2, 3, 4, 6, 8, 12)  # twice the floats' sizes; the fourth bit is the sign
_VALUES = torch.tensor([*_SIZES, *(-size for size in _SIZES)], dtype=torch.int8)
_MIDDLES = torch.tensor([0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0])
_SUBNORMAL = 2  # exponents below this one give a float32 without the leading bit


def _unpack(blocks: Tensor) -> Codes:
    codes = split_bits(blocks[:, 1:], 4).flatten(1)
    return Codes(_VALUES[codes.int()], _scale(blocks[:, :1]))


def _encode(weights: Tensor, _importance: Tensor | None) -> Tensor:
    exponent = _exponent(weights.abs().amax(1, keepdim=True))
    sizes = weights.abs() / _scale(exponent)
    # A size in the middle between two goes to the smaller, as the first of the nearest in ggml.
    codes = torch.bucketize(sizes, _MIDDLES, out_int32=True).to(torch.uint8)
    codes |= ((weights < 0) & (codes > 0)).to(torch.uint8) << 3
    return torch.cat([exponent, join_bits(codes.view(-1, 2, 16), 4)], dim=1)


def _exponent(largest: Tensor) -> Tensor:
    """The exponent under which `largest` is from 8 to 16, of which 12 is the most there is."""
    # float32 of the exact logarithm: just below a power of two it is that of the power, as in C.
    log2 = largest.double().log2().float()
    return torch.where(largest > 0, (log2.floor() - 2 + 127).clamp(0, 255), 0.0).to(torch.uint8)


def _scale(exponent: Tensor) -> Tensor:
    exponent = exponent.to(torch.int32)
    bits = torch.where(exponent < _SUBNORMAL, 0x00200000 << exponent, (exponent - 1) << 23)
    return bits.view(torch.float32)


MXFP4 = RowFormat("MXFP4", 32, 17, _unpack, _encode)
