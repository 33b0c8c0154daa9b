"""Rows of blocks (GGML's and ours) taken apart: codes by column, scales by group. On any device.

The layouts are those of ggml-quants.h and kernels/own_kinds.py. Nothing is rounded. Where an E4M3
code is no number, the scale of its group becomes none.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import IQ4_NL, MXFP4
from torch import Tensor

from kernels.own_kinds import AFFINE4, AFFINE8, FP8, GROUPS, row_kind
from kernels.packed import CODED_16, CODED_32


class Parts(NamedTuple):
    """Of N blocks, in the types that kernels/planes/format.py names; `codes` are whole bytes."""

    codes: Tensor  # [N, columns of a block]
    scales: Tensor  # [N, groups of a block]
    supers: Tensor | None = None  # [N], or [N, groups of a block]
    table: Tensor | None = None  # [16]


def take_apart(kind: int, rows: Tensor) -> Parts:
    """uint8 [R, bytes of a row] to parts of all its blocks, row by row."""
    own = row_kind(kind)
    num_bytes = GGML_QUANT_SIZES[Type(kind)][1] if own is None else own.num_bytes
    return _TAKE[kind](rows.reshape(-1, num_bytes))


def _as(dtype: torch.dtype, packed: Tensor) -> Tensor:
    return packed.contiguous().view(dtype)


def _halves(packed: Tensor) -> Tensor:
    """Low nibbles, then high ones: [N, B] to [N, 2B]."""
    return torch.cat([packed & 15, packed >> 4], dim=1)


def _fields(packed: Tensor, run: int, bits: int) -> Tensor:
    """[N, B] to fields [N, 8B / bits], each of `run` neighbouring bytes before the next."""
    runs = packed.unflatten(1, (-1, run))
    shifts = range(0, 8, bits)
    mask = (1 << bits) - 1
    return torch.stack([runs >> shift & mask for shift in shifts], dim=2).flatten(1)


def _bits(packed: Tensor) -> Tensor:
    """[N, B] to [N, 8B], the lowest of each byte first."""
    return torch.stack([packed >> shift & 1 for shift in range(8)], dim=2).flatten(1)


def _q4(num_scales: int, blocks: Tensor) -> Parts:
    dtype = torch.float16 if num_scales == 1 else torch.int32
    start = 2 * num_scales
    return Parts(_halves(blocks[:, start:]), _as(dtype, blocks[:, :start]))


def _q5(num_scales: int, blocks: Tensor) -> Parts:
    dtype = torch.float16 if num_scales == 1 else torch.int32
    start = 2 * num_scales
    codes = _halves(blocks[:, start + 4 :]) | _bits(blocks[:, start : start + 4]) << 4
    return Parts(codes, _as(dtype, blocks[:, :start]))


def _q8_0(blocks: Tensor) -> Parts:
    return Parts(blocks[:, 2:].view(torch.int8), _as(torch.float16, blocks[:, :2]))


def _q2_k(blocks: Tensor) -> Parts:
    supers = _as(torch.int32, blocks[:, 80:])[:, 0]
    return Parts(_fields(blocks[:, 16:80], 32, 2), blocks[:, :16], supers)


def _q3_k(blocks: Tensor) -> Parts:
    low = _fields(blocks[:, 32:96], 32, 2)
    codes = low | _fields(blocks[:, :32], 32, 1) << 2  # a set bit is 4 more
    scales = _halves(blocks[:, 96:104]) | _fields(blocks[:, 104:108], 4, 2) << 4
    return Parts(codes, scales.view(torch.int8) - 32, _as(torch.float16, blocks[:, 108:])[:, 0])


def _k_scales(packed: Tensor) -> Tensor:
    """The six-bit scales and minima of Q4_K and Q5_K, [N, 12] to pairs [N, 8]."""
    scale, minimum, rest = packed.split(4, dim=1)
    scales = torch.cat([scale & 63, rest & 15 | scale >> 2 & 48], dim=1)
    minima = torch.cat([minimum & 63, rest >> 4 | minimum >> 2 & 48], dim=1)
    return scales.short() | minima.short() << 8


def _q4_k(blocks: Tensor) -> Parts:
    supers = _as(torch.int32, blocks[:, :4])[:, 0]
    return Parts(_fields(blocks[:, 16:], 32, 4), _k_scales(blocks[:, 4:16]), supers)


def _q5_k(blocks: Tensor) -> Parts:
    supers = _as(torch.int32, blocks[:, :4])[:, 0]
    codes = _fields(blocks[:, 48:], 32, 4) | _fields(blocks[:, 16:48], 32, 1) << 4
    return Parts(codes, _k_scales(blocks[:, 4:16]), supers)


def _q6_k(blocks: Tensor) -> Parts:
    codes = _fields(blocks[:, :128], 64, 4) | _fields(blocks[:, 128:192], 32, 2) << 4
    scales = blocks[:, 192:208].view(torch.int8)
    return Parts(codes, scales, _as(torch.float16, blocks[:, 208:])[:, 0])


def _numbers(numbers: tuple[int, ...], blocks: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int8, device=blocks.device)


def _iq4_nl(blocks: Tensor) -> Parts:
    table = _numbers(IQ4_NL.kvalues, blocks)
    return Parts(_halves(blocks[:, 2:]), _as(torch.float16, blocks[:, :2]), table=table)


def _iq4_xs(blocks: Tensor) -> Parts:
    low = _fields(blocks[:, 4:8], 1, 4)
    scales = low | _fields(blocks[:, 2:4], 1, 2) << 4
    supers = _as(torch.float16, blocks[:, :2])[:, 0]
    codes = _fields(blocks[:, 8:], 16, 4)
    return Parts(codes, scales.view(torch.int8) - 32, supers, _numbers(IQ4_NL.kvalues, blocks))


def _mxfp4(blocks: Tensor) -> Parts:
    table = _numbers(MXFP4.kvalues, blocks)
    return Parts(_halves(blocks[:, 1:]), blocks[:, :1], table=table)


def _coded(group: int, blocks: Tensor) -> Parts:
    scales, nibbles = blocks[:, 20:].split([256 // group, 128], dim=1)
    supers = _as(torch.float32, blocks[:, 16:20])[:, 0]
    table = blocks[0, :16].view(torch.int8)
    return Parts(_fields(nibbles, 16, 4), scales.view(torch.int8), supers, table)


def _affine(bits: int, blocks: Tensor) -> Parts:
    scale, zero = _as(torch.float32, blocks[:, :8]).chunk(2, dim=1)
    codes = blocks[:, 8:]
    return Parts(_halves(codes) if bits == 4 else (codes ^ 128).view(torch.int8), scale, zero)


def _fp8(blocks: Tensor) -> Parts:
    codes, scales = blocks[:, 4:], _as(torch.float32, blocks[:, :4])
    has_none = (codes & 127 == 127).any(1, keepdim=True)  # kernels do not look for such a code
    return Parts(codes, scales.masked_fill(has_none, torch.nan))


_TAKE: dict[int, Callable[[Tensor], Parts]] = {
    Type.Q4_0: partial(_q4, 1),
    Type.Q4_1: partial(_q4, 2),
    Type.Q5_0: partial(_q5, 1),
    Type.Q5_1: partial(_q5, 2),
    Type.Q8_0: _q8_0,
    Type.Q2_K: _q2_k,
    Type.Q3_K: _q3_k,
    Type.Q4_K: _q4_k,
    Type.Q5_K: _q5_k,
    Type.Q6_K: _q6_k,
    Type.IQ4_NL: _iq4_nl,
    Type.IQ4_XS: _iq4_xs,
    Type.MXFP4: _mxfp4,
    CODED_16: partial(_coded, 16),
    CODED_32: partial(_coded, 32),
    **{AFFINE4 + group: partial(_affine, 4) for group in GROUPS},
    **{AFFINE8 + group: partial(_affine, 8) for group in GROUPS},
    **{FP8 + group: _fp8 for group in GROUPS},
}
