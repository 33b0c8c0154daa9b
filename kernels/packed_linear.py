"""Products with weights that stay packed on a GPU, by the number of inputs.

One: planes/vector.py. Up to 16: planes/few.py. More: tiles of weights unpacked in registers. Beyond
a number that tiles.py has: weights unpacked to memory, a part at a time, and torch's product.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.architecture import capability_of
from kernels.check import expect, expect_rows, expect_shape
from kernels.packed import PackedMatrix
from kernels.packed_rows import unpack_rows
from kernels.planes.arguments import planes_of
from kernels.planes.few import _few_kernel
from kernels.planes.format import num_blocks
from kernels.planes.hqq import FORMATS as HQQ_FORMATS
from kernels.planes.hqq_products import multiply_hqq
from kernels.planes.many import multiply_tile
from kernels.planes.splits import sum_splits
from kernels.planes.tiles import MAX_FEW, Table, few_tiles, many_tiles, num_splits, table_of
from kernels.planes.vector import _vector_kernel

_UNPACKED_WEIGHTS = 1 << 26  # in memory at a time


@triton.jit(do_not_specialize=["num_inputs"])
def _packed_linear_kernel(
    x,
    low,
    high,
    scales,
    supers,
    table,
    output,
    num_inputs,
    num_rows,
    num_columns,
    num_blocks,
    x_stride,
    low_stride,
    high_stride,
    output_stride,
    CODES: tl.constexpr,
    SCALES: tl.constexpr,
    GROUP: tl.constexpr,
    BIAS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    IS_FAST: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    # Programs that follow each other have the same weights, which then come from a cache.
    num_input_tiles = tl.cdiv(num_inputs, INPUTS)
    input = (tl.program_id(0) % num_input_tiles) * INPUTS + tl.arange(0, INPUTS)
    row = (tl.program_id(0) // num_input_tiles) * ROWS + tl.arange(0, ROWS)
    is_input, is_row = input < num_inputs, row < num_rows
    total = multiply_tile(
        x + input[:, None].to(tl.int64) * x_stride,
        is_input,
        low,
        high,
        scales,
        supers,
        table,
        row,
        is_row,
        num_rows,
        num_columns,
        num_blocks,
        low_stride,
        high_stride,
        CODES,
        SCALES,
        GROUP,
        BIAS,
        HAS_SHIFT,
        IS_FAST,
        IS_WHOLE,
        INPUTS,
        ROWS,
        NUM_STAGES,
    )
    place = output + input[:, None].to(tl.int64) * output_stride + row[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=is_input[:, None] & is_row[None, :])


def packed_linear(x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool = True) -> Tensor:
    """As kernels/reference/packed_linear.py, of matrices in planes; the inputs may be strided.

    Up to 16 inputs weights are not rounded; from 17 on they are, to x's type.
    """
    expect("dimensions of x", x.dim(), 2)
    expect_rows("x", x)
    output = torch.empty(len(x), sum(w.num_rows for w in weights), dtype=x.dtype, device=x.device)
    table = table_of(capability_of(x.device))
    start = 0
    for matrix in weights:
        expect_shape("x", x, len(x), matrix.num_columns)
        part = output[:, start : start + matrix.num_rows]
        start += matrix.num_rows
        if part.numel():
            _multiply(x, matrix, part, table)
    return output


def _multiply(x: Tensor, matrix: PackedMatrix, output: Tensor, table: Table) -> None:
    if matrix.kind in HQQ_FORMATS and len(x) <= table.max_fused:
        multiply_hqq(x, matrix, output, table)
    elif len(x) <= MAX_FEW and x.element_size() == 2:
        _multiply_few(x, matrix, output, table)
    elif len(x) <= table.max_fused:
        _multiply_many(x, matrix, output, table)
    else:
        _multiply_unpacked(x, matrix, output)


def _multiply_few(x: Tensor, matrix: PackedMatrix, output: Tensor, table: Table) -> None:
    tiles = table.vector if len(x) == 1 else few_tiles(table, matrix.kind, len(x))
    blocks = num_blocks(matrix.num_columns)
    row_tiles = triton.cdiv(matrix.num_rows, tiles.rows)
    splits = num_splits(table, row_tiles, blocks)
    parts = output[None]
    if splits > 1:
        parts = torch.empty(splits, *output.shape, dtype=torch.float32, device=x.device)
    planes, constants = planes_of(matrix, x)
    shape = (matrix.num_rows, matrix.num_columns, blocks)
    strides = (planes[0].stride(0), planes[1].stride(0))
    options = {
        "ROWS": tiles.rows,
        "NUM_STAGES": tiles.num_stages,
        **tiles.options(),
    }
    if len(x) == 1:
        _vector_kernel[(row_tiles, splits)](
            x, *planes, parts, *shape, *strides, parts.stride(0), **constants, **options
        )
    else:
        _few_kernel[(row_tiles, splits)](
            x,
            *planes,
            parts,
            len(x),
            *shape,
            x.stride(0),
            *strides,
            *parts.stride()[:2],
            **constants,
            INPUTS=tiles.inputs,
            **options,
        )
    if splits > 1:
        sum_splits(parts, output)


def _multiply_many(x: Tensor, matrix: PackedMatrix, output: Tensor, table: Table) -> None:
    tiles = many_tiles(table, matrix.kind, x.element_size())
    planes, constants = planes_of(matrix, x)
    num_tiles = triton.cdiv(len(x), tiles.inputs) * triton.cdiv(matrix.num_rows, tiles.rows)
    _packed_linear_kernel[(num_tiles,)](
        x,
        *planes,
        output,
        len(x),
        matrix.num_rows,
        matrix.num_columns,
        num_blocks(matrix.num_columns),
        x.stride(0),
        planes[0].stride(0),
        planes[1].stride(0),
        output.stride(0),
        **constants,
        INPUTS=tiles.inputs,
        ROWS=tiles.rows,
        NUM_STAGES=tiles.num_stages,
        **tiles.options(),
    )


def _multiply_unpacked(x: Tensor, matrix: PackedMatrix, output: Tensor) -> None:
    step = min(matrix.num_rows, max(1, _UNPACKED_WEIGHTS // matrix.num_columns))
    rows = torch.empty(step, matrix.num_columns, dtype=x.dtype, device=x.device)
    for start in range(0, matrix.num_rows, step):
        weights = rows[: matrix.num_rows - start]
        unpack_rows(matrix, start, weights)
        torch.mm(x, weights.T, out=output[:, start : start + len(weights)])
