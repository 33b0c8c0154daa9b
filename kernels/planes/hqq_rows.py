"""Rows of an HQQ matrix in planes, unpacked: those of token ids, or all for a dense product."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.hqq_parts import PART_ROWS
from kernels.packed import PackedMatrix
from kernels.planes.format import num_blocks
from kernels.planes.hqq import FORMATS
from kernels.planes.loads import load_planes

_PART_ROWS = tl.constexpr(PART_ROWS)
_ROWS = 16


@triton.jit(do_not_specialize=["num_chosen", "first_row"])
def _hqq_rows_kernel(
    indices,
    low,
    scales,
    zeros,
    output,
    num_chosen,
    first_row,
    num_parts,
    num_columns,
    low_stride,
    scales_stride,
    CODES: tl.constexpr,
    BIAS: tl.constexpr,
    HAS_INDICES: tl.constexpr,
    ROWS: tl.constexpr,
):
    chosen = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = chosen < num_chosen
    row = first_row + chosen
    if HAS_INDICES:
        row = tl.load(indices + chosen, mask=is_row, other=0).to(tl.int32)
    block = tl.program_id(1)
    lane = tl.arange(0, 32)
    part, of_part = row % num_parts, row // num_parts
    low_rows = low + (part * _PART_ROWS + of_part)[None, :].to(tl.int64) * low_stride
    column = part[None, :].to(tl.int64) * scales_stride + lane[:, None]
    output_rows = output + chosen[None, :].to(tl.int64) * num_columns
    for half in tl.static_range(2):
        planes = load_planes(
            low_rows,
            low_rows,
            low,
            is_row[None, :],
            lane[:, None],
            block,
            half,
            CODES,
            tl.float32,
            False,
        )
        for plane in tl.static_range(4):
            at = block * 256 + (half * 4 + plane) * 32
            mask = is_row[None, :] & (at + lane < num_columns)[:, None]
            zero = tl.load(zeros + column + at, mask=mask, other=0.0)
            scale = tl.load(scales + column + at, mask=mask, other=0.0)
            weights = (planes[plane] - BIAS - zero) * scale
            place = output_rows + (at + lane)[:, None]
            tl.store(place, weights.to(output.dtype.element_ty), mask=mask)


def unpack_hqq(
    matrix: PackedMatrix, indices: Tensor | None, first_row: int, output: Tensor
) -> None:
    """Fill output [N, columns], of any type, with rows `indices` [N], or those from `first_row` on.

    One rounding after each operation, as on a CPU: rows are the same bits everywhere.
    """
    assert matrix.planes is not None, "a matrix on a GPU is in planes"
    low, _, scales, zeros, _ = matrix.planes
    format = FORMATS[matrix.kind]
    _hqq_rows_kernel[(triton.cdiv(len(output), _ROWS), num_blocks(matrix.num_columns))](
        low if indices is None else indices,
        low,
        scales,
        zeros,
        output,
        len(output),
        first_row,
        len(scales),
        matrix.num_columns,
        low.stride(0),
        scales.stride(0),
        CODES=format.codes,
        BIAS=format.bias,
        HAS_INDICES=indices is not None,
        ROWS=_ROWS,
        enable_fp_fusion=False,
    )
