"""How a matrix of a format lies in memory for the kernels: as a kind of theirs, value for value."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from gguf.constants import GGMLQuantizationType as Type
from torch import Tensor

from engine.quant.fp8 import FP8
from engine.quant.q8_0 import Q8_0
from engine.quant.q8_1 import Q8_1
from engine.quant.q8_k import Q8_K
from engine.quant.registry import Format
from engine.quant.row_format import RowFormat
from engine.quant.scaled_rows import AFFINE8_ROWS, FP8_ROWS, ScaledRows, rows_format

_ZERO = 128  # what stands for 0 where signed codes are kept as unsigned ones


class MemoryForm(NamedTuple):
    """Rows of blocks of a `kind` of kernels/packed.py.

    `pack` makes them, uint8 [R, bytes], of float weights [R, C] and their importance [C], if any.
    Where `is_whole`, it has to be given all rows of the matrix at once.
    """

    kind: int
    pack: Callable[[Tensor, Tensor | None], Tensor]
    is_whole: bool = False


def memory_form(format: Format, num_columns: int) -> MemoryForm | None:
    """The form of a matrix in `format`, None if the kernels have no kind that holds it."""
    if format is Q8_1:  # what Q8_1 has beside Q8_0 is of use to activations alone
        return MemoryForm(int(Type.Q8_0), _q8_1_as_q8_0)
    if format is Q8_K:
        return _scaled(rows_format(AFFINE8_ROWS, num_columns), _q8_k_as_affine)
    if format is FP8:
        return _scaled(rows_format(FP8_ROWS, num_columns), _fp8_by_rows, is_whole=True)
    if isinstance(format, RowFormat):
        return MemoryForm(int(Type[format.name]), format.quantize)
    return None


def _scaled(
    rows: ScaledRows | None,
    pack: Callable[[ScaledRows, Tensor, Tensor | None], Tensor],
    *,
    is_whole: bool = False,
) -> MemoryForm | None:
    return None if rows is None else MemoryForm(rows.kind, partial(pack, rows), is_whole)


def _q8_1_as_q8_0(weights: Tensor, _importance: Tensor | None) -> Tensor:
    blocks = Q8_1.quantize(weights).view(len(weights), -1, Q8_1.num_bytes)
    scale, codes = blocks[..., :2], blocks[..., 4:]
    assert scale.shape[-1] + codes.shape[-1] == Q8_0.num_bytes
    return torch.cat([scale, codes], dim=-1).flatten(1)


def _q8_k_as_affine(rows: ScaledRows, weights: Tensor, _importance: Tensor | None) -> Tensor:
    unpacked = Q8_K.unpack(Q8_K.quantize(weights).view(-1, Q8_K.num_bytes))
    codes = (unpacked.codes.to(torch.int16) + _ZERO).to(torch.uint8)
    scales = unpacked.scales.view(len(weights), -1)
    zeros = torch.full_like(scales, _ZERO)
    return rows.pack(codes.view(weights.shape), scales, zeros)


def _fp8_by_rows(rows: ScaledRows, weights: Tensor, _importance: Tensor | None) -> Tensor:
    packed = FP8.quantize(weights)
    return rows.pack(packed.codes.view(weights.shape), packed.scales.expand(len(weights), 1))
