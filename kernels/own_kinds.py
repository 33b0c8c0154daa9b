"""Rows of the kinds that are ours (packed.py), block by block: sizes, and how to unpack them.

The truth for what is made of them in C++; engine/quant makes such rows.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.packed import CODED_16, CODED_32

AFFINE4, AFFINE8, FP8 = 1000, 2000, 3000  # and the columns of a block
GROUPS = (32, 64, 128)
_CODED = ((CODED_16, 16), (CODED_32, 32))


class RowKind(NamedTuple):
    """Blocks of `num_weights` neighbours of a row in `num_bytes` bytes.

    `unpack` takes uint8 [N, num_bytes] and gives float32 [N, num_weights]. Scales that are infinite
    or not a number give weights that are so too.
    """

    num_weights: int
    num_bytes: int
    unpack: Callable[[Tensor], Tensor]

    def rows(self, packed: Tensor) -> Tensor:
        """Unpack whole rows: uint8 [R, bytes of a row] to float32 [R, columns]."""
        return self.unpack(packed.reshape(-1, self.num_bytes)).view(len(packed), -1)


def row_kind(kind: int) -> RowKind | None:
    """The layout of a kind of ours, None for any other number."""
    return _KINDS.get(kind)


def _floats(packed: Tensor) -> Tensor:
    return packed.contiguous().view(torch.float32)


def _affine(bits: int, blocks: Tensor) -> Tensor:
    scale, zero = _floats(blocks[:, :8]).chunk(2, dim=1)
    codes = blocks[:, 8:]
    if bits == 4:
        codes = torch.cat([codes & 15, codes >> 4], dim=1)
    return (codes.float() - zero) * scale


def _fp8(blocks: Tensor) -> Tensor:
    codes = blocks[:, 4:].contiguous().view(torch.float8_e4m3fn)
    return codes.float() * _floats(blocks[:, :4])


def _coded(group: int, blocks: Tensor) -> Tensor:
    numbers, d, rest = blocks[:, :16], _floats(blocks[:, 16:20]), blocks[:, 20:]
    scales, nibbles = rest.split([256 // group, 128], dim=1)
    pairs = nibbles.reshape(len(blocks), 8, 16)
    codes = torch.cat([pairs & 15, pairs >> 4], dim=2).flatten(1)
    values = numbers.view(torch.int8).gather(1, codes.long()).float()
    factors: Tensor = d * scales.view(torch.int8)
    return values * factors.repeat_interleave(group, dim=1)


_KINDS = {
    **{AFFINE4 + g: RowKind(g, 8 + g // 2, partial(_affine, 4)) for g in GROUPS},
    **{AFFINE8 + g: RowKind(g, 8 + g, partial(_affine, 8)) for g in GROUPS},
    **{FP8 + g: RowKind(g, 4 + g, _fp8) for g in GROUPS},
    **{kind: RowKind(256, 148 + 256 // g, partial(_coded, g)) for kind, g in _CODED},
}
