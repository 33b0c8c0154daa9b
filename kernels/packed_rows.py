"""Rows of a packed matrix, unpacked: those of token ids, or all of them for a dense product."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_index
from kernels.packed import PackedMatrix
from kernels.planes.arguments import format_constants
from kernels.planes.format import FORMATS, num_blocks
from kernels.planes.hqq import FORMATS as HQQ_FORMATS
from kernels.planes.hqq_rows import unpack_hqq
from kernels.planes.loads import load_planes
from kernels.planes.many import plane_weights

_ROWS = 16


@triton.jit(do_not_specialize=["num_chosen", "first_row"])
def _packed_rows_kernel(
    indices,
    low,
    high,
    scales,
    supers,
    table,
    output,
    num_chosen,
    first_row,
    num_rows,
    num_columns,
    low_stride,
    high_stride,
    CODES: tl.constexpr,
    SCALES: tl.constexpr,
    GROUP: tl.constexpr,
    BIAS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
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
    low_rows = low + row[None, :].to(tl.int64) * low_stride
    high_rows = high + row[None, :].to(tl.int64) * high_stride
    output_rows = output + chosen[None, :].to(tl.int64) * num_columns
    for half in tl.static_range(2):
        planes = load_planes(
            low_rows,
            high_rows,
            table,
            is_row[None, :],
            lane[:, None],
            block,
            half,
            CODES,
            tl.float32,
            False,
        )
        for plane in tl.static_range(4):
            at = block * 256 + (half * 4 + plane) * 32 + lane
            weights = plane_weights(
                planes[plane],
                scales,
                supers,
                block * num_rows + row,
                is_row,
                lane,
                (half * 4 + plane) * 2,
                SCALES,
                GROUP,
                BIAS,
                HAS_SHIFT,
            )
            mask = is_row[None, :] & (at < num_columns)[:, None]
            tl.store(output_rows + at[:, None], weights.to(output.dtype.element_ty), mask=mask)


def packed_rows(matrix: PackedMatrix, indices: Tensor) -> Tensor:
    """As kernels/reference/packed_rows.py, to the bit, of a matrix in planes."""
    expect("dimensions of indices", indices.dim(), 1)
    expect_index("indices", indices, torch.int64, matrix.data)
    output = torch.empty(
        len(indices), matrix.num_columns, dtype=torch.float32, device=indices.device
    )
    _launch(matrix, indices, 0, output)
    return output


def unpack_rows(matrix: PackedMatrix, first_row: int, output: Tensor) -> None:
    """Fill output [N, columns], of any type, with the rows from `first_row` on."""
    _launch(matrix, None, first_row, output)


def _launch(matrix: PackedMatrix, indices: Tensor | None, first_row: int, output: Tensor) -> None:
    assert matrix.planes is not None, "a matrix on a GPU is in planes"
    if not len(output):
        return
    if matrix.kind in HQQ_FORMATS:
        unpack_hqq(matrix, indices, first_row, output)
        return
    format, planes = FORMATS[matrix.kind], matrix.planes
    _packed_rows_kernel[(triton.cdiv(len(output), _ROWS), num_blocks(matrix.num_columns))](
        planes.low if indices is None else indices,
        *planes,
        output,
        len(output),
        first_row,
        matrix.num_rows,
        matrix.num_columns,
        planes.low.stride(0),
        planes.high.stride(0),
        **format_constants(format),
        BIAS=format.bias,
        HAS_INDICES=indices is not None,
        ROWS=_ROWS,
        # One rounding after each operation, as on a CPU: rows are the same bits everywhere.
        enable_fp_fusion=False,
    )
