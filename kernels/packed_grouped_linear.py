"""Rows in groups, each group times a packed matrix of its own: the experts of a layer, one launch.

Groups are found on the device as in grouped_linear.py, and a tile of weights becomes numbers in
registers as in planes/many.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.architecture import capability_of
from kernels.check import expect, expect_index, expect_rows, expect_shape
from kernels.grouped_linear import find_group
from kernels.packed import PackedMatrix
from kernels.planes.arguments import planes_of
from kernels.planes.format import num_blocks
from kernels.planes.many import multiply_tile
from kernels.planes.tiles import grouped_tiles, table_of


@triton.jit(do_not_specialize=["num_groups"])
def _packed_grouped_linear_kernel(
    x,
    low,
    high,
    scales,
    supers,
    table,
    starts,
    output,
    num_groups,
    num_outputs,
    num_rows,
    num_columns,
    num_blocks,
    x_stride,
    low_stride,
    high_stride,
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
    tile = tl.program_id(0)
    group = find_group(starts, num_groups, tile, INPUTS)
    first = tl.load(starts + group)
    end = tl.load(starts + group + 1)
    offset = first + (tile - first // INPUTS - group) * INPUTS
    if offset >= end:
        return
    input = offset + tl.arange(0, INPUTS)
    out = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_input, is_out = input < end, out < num_outputs
    total = multiply_tile(
        x + input[:, None].to(tl.int64) * x_stride,
        is_input,
        low,
        high,
        scales,
        supers,
        table,
        group * num_outputs + out,
        is_out,
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
    place = output + input[:, None].to(tl.int64) * num_outputs + out[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=is_input[:, None] & is_out[None, :])


def packed_grouped_linear(x: Tensor, weight: PackedMatrix, starts: Tensor) -> Tensor:
    """As kernels/reference/packed_grouped_linear.py, of a matrix in planes; x may be strided.

    Weights are rounded to x's type.
    """
    expect("dimensions of x", x.dim(), 2)
    expect_rows("x", x)
    expect_shape("x", x, len(x), weight.num_columns)
    expect_index("starts", starts, torch.int32, x)
    num_groups = len(starts) - 1
    expect("rows of weight beyond those of all groups", weight.num_rows % num_groups, 0)
    num_outputs = weight.num_rows // num_groups
    output = torch.empty(len(x), num_outputs, dtype=x.dtype, device=x.device)
    if not output.numel():
        return output
    table = table_of(capability_of(x.device))
    tiles = grouped_tiles(table, weight.kind, len(x), num_groups, x.element_size())
    planes, constants = planes_of(weight, x)
    num_tiles = len(x) // tiles.inputs + num_groups
    _packed_grouped_linear_kernel[(num_tiles, triton.cdiv(num_outputs, tiles.rows))](
        x,
        *planes,
        starts,
        output,
        num_groups,
        num_outputs,
        weight.num_rows,
        weight.num_columns,
        num_blocks(weight.num_columns),
        x.stride(0),
        planes[0].stride(0),
        planes[1].stride(0),
        **constants,
        INPUTS=tiles.inputs,
        ROWS=tiles.rows,
        NUM_STAGES=tiles.num_stages,
        **tiles.options(),
    )
    return output
