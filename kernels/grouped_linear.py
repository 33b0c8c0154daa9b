"""Rows in groups, each group times a matrix of its own: the experts of a layer in one launch.

One program computes a tile of one group's rows and some columns. It finds its group from the
starts on the device, so the host knows the number of rows but never how they are divided.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_index, expect_like, expect_rows, expect_shape


@triton.jit
def find_group(starts, num_groups, tile, TILE_ROWS: tl.constexpr):
    """The group that owns `tile`: the last whose first tile is not past it.

    Group e begins at tile `starts[e] // TILE_ROWS + e`, which leaves each group enough tiles.
    """
    low = 0
    high = num_groups
    while high - low > 1:
        middle = (low + high) // 2
        is_past = tl.load(starts + middle) // TILE_ROWS + middle > tile
        low = tl.where(is_past, low, middle)
        high = tl.where(is_past, middle, high)
    return low


@triton.jit(do_not_specialize=["num_groups"])
def _grouped_linear_kernel(
    x,
    weight,
    starts,
    output,
    num_groups,
    num_inputs,
    num_outputs,
    x_stride,
    weight_stride_e,
    weight_stride_o,
    TILE_ROWS: tl.constexpr,
    TILE_OUTPUTS: tl.constexpr,
    TILE_INPUTS: tl.constexpr,
):
    tile = tl.program_id(0)
    group = find_group(starts, num_groups, tile, TILE_ROWS)
    first = tl.load(starts + group)
    end = tl.load(starts + group + 1)
    offset = first + (tile - first // TILE_ROWS - group) * TILE_ROWS
    if offset >= end:
        return
    row = offset + tl.arange(0, TILE_ROWS)
    is_row = row < end
    row = row.to(tl.int64)
    out = tl.program_id(1) * TILE_OUTPUTS + tl.arange(0, TILE_OUTPUTS)
    is_out = out < num_outputs
    x_rows = x + row[:, None] * x_stride
    # [inputs, outputs]: the transpose is in the addresses.
    columns = weight + group.to(tl.int64) * weight_stride_e + out.to(tl.int64) * weight_stride_o
    sums = tl.zeros([TILE_ROWS, TILE_OUTPUTS], tl.float32)
    for start in range(0, num_inputs, TILE_INPUTS):
        place = start + tl.arange(0, TILE_INPUTS)
        inside = place < num_inputs
        a = tl.load(x_rows + place[None, :], mask=is_row[:, None] & inside[None, :], other=0.0)
        b = tl.load(
            columns[None, :] + place[:, None], mask=inside[:, None] & is_out[None, :], other=0.0
        )
        sums += tl.dot(a, b, input_precision="ieee")
    place = output + row[:, None] * num_outputs + out[None, :]
    tl.store(place, sums.to(output.dtype.element_ty), mask=is_row[:, None] & is_out[None, :])


class _Tiles(NamedTuple):
    rows: int
    outputs: int
    inputs: int
    num_warps: int


def grouped_linear(x: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    """As kernels/reference/grouped_linear.py. All but the last dimension may be strided."""
    expect("dimensions of x", x.dim(), 2)
    expect("dimensions of weight", weight.dim(), 3)
    num_groups, num_outputs, num_inputs = weight.shape
    expect_shape("x", x, len(x), num_inputs)
    expect_like("weight", weight, x)
    expect_shape("starts", starts, num_groups + 1)
    expect_index("starts", starts, torch.int32, x)
    expect_rows("x", x)
    expect_rows("weight", weight)
    output = torch.empty(len(x), num_outputs, dtype=x.dtype, device=x.device)
    if output.numel():
        tiles = _tiles(len(x) // num_groups, x.element_size())
        num_tiles = len(x) // tiles.rows + num_groups
        _grouped_linear_kernel[(num_tiles, triton.cdiv(num_outputs, tiles.outputs))](
            x,
            weight,
            starts,
            output,
            num_groups,
            num_inputs,
            num_outputs,
            x.stride(0),
            weight.stride(0),
            weight.stride(1),
            TILE_ROWS=tiles.rows,
            TILE_OUTPUTS=tiles.outputs,
            TILE_INPUTS=tiles.inputs,
            num_warps=tiles.num_warps,
        )
    return output


def _tiles(rows_per_group: int, element_size: int) -> _Tiles:
    """Few rows a group leave reading the weights as the cost, many the products.

    tl.dot needs 16 of each. Half as many inputs of twice the size take the same shared memory.
    """
    inputs = 128 // element_size
    if rows_per_group <= 16:
        return _Tiles(16, 64, 2 * inputs, num_warps=4)
    if rows_per_group <= 64 or element_size > 2:
        return _Tiles(32, 64, inputs, num_warps=4)
    return _Tiles(128, 128, inputs, num_warps=8)
