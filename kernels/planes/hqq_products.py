"""Inputs times HQQ matrices in planes: a tile is the 64 rows of a part, which share all scales.

Scales and zeros belong to columns, so for a few inputs they go into those: `x * scale` is what
codes are multiplied by, and the sum of that times the zeros is taken off once. Neither is rounded:
for tensor cores `x * scale` comes in two bfloat16 pieces, which hold 16 of its bits. For many
inputs weights are made in registers and rounded to the inputs' type.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.hqq_parts import PART_ROWS
from kernels.interpreter import is_interpreting
from kernels.packed import PackedMatrix
from kernels.planes.fields import MAGIC_BIAS
from kernels.planes.format import num_blocks
from kernels.planes.hqq import FORMATS
from kernels.planes.loads import load_planes
from kernels.planes.splits import sum_splits
from kernels.planes.tiles import MAX_FEW, Table, num_splits, parts_tiles

_PART_ROWS = tl.constexpr(PART_ROWS)


@triton.jit(do_not_specialize=["num_inputs"])
def _hqq_few_kernel(
    x,
    low,
    scales,
    zeros,
    output,
    num_inputs,
    num_parts,
    num_columns,
    num_blocks,
    x_stride,
    low_stride,
    scales_stride,
    output_stride_split,
    output_stride,
    CODES: tl.constexpr,
    BIAS: tl.constexpr,
    IS_HALF: tl.constexpr,
    IS_FAST: tl.constexpr,
    IS_ONE: tl.constexpr,
    INPUTS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Output [splits, num_inputs, rows]: each split has some of the blocks.

    One input's two pieces are two columns of a product; of more they are two products.
    """
    part = tl.program_id(0)
    of_part = tl.arange(0, _PART_ROWS)
    row = part * _PART_ROWS + of_part
    is_row = row < num_parts * _PART_ROWS
    input = tl.arange(0, INPUTS)
    is_input = input < num_inputs
    lane = tl.arange(0, 32)
    low_rows = low + row[:, None].to(tl.int64) * low_stride
    x_rows = x + lane[:, None] + (input * 0 if IS_ONE else input)[None, :] * x_stride
    is_read = (lane < 32)[:, None] & ((input >= 0) if IS_ONE else is_input)[None, :]
    scales_row = scales + part.to(tl.int64) * scales_stride + lane
    zeros_row = zeros + part.to(tl.int64) * scales_stride + lane
    # float16 has not the range of what scales make of its numbers.
    TYPE: tl.constexpr = tl.bfloat16 if IS_HALF else tl.float32
    total = tl.zeros([_PART_ROWS, INPUTS], tl.float32)
    offsets = tl.zeros([32, INPUTS], tl.float32)
    split_blocks = tl.cdiv(num_blocks, tl.num_programs(1))
    begin = tl.program_id(1) * split_blocks
    end = tl.minimum(begin + split_blocks, num_blocks)
    for block in tl.range(begin, end, num_stages=NUM_STAGES):
        for half in tl.static_range(2):
            planes = load_planes(
                low_rows,
                low_rows,
                low,
                is_row[:, None],
                lane[None, :],
                block,
                half,
                CODES,
                TYPE,
                IS_FAST,
            )
            for plane in tl.static_range(4):
                at = block * 256 + (half * 4 + plane) * 32
                inside = is_read & (at + lane < num_columns)[:, None]
                inputs = tl.load(x_rows + at, mask=inside, other=0.0).to(tl.float32)
                scaled = inputs * tl.load(scales_row + at)[:, None]
                zero = tl.load(zeros_row + at)[:, None] + BIAS
                if not IS_HALF:
                    if IS_ONE:
                        scaled = tl.where((input == 0)[None, :], scaled, 0.0)
                    offsets += scaled * zero
                    total += tl.dot(planes[plane], scaled, input_precision="ieee")
                else:
                    large = scaled.to(TYPE)
                    small = (scaled - large.to(tl.float32)).to(TYPE)
                    if IS_ONE:
                        large = tl.where((input == 1)[None, :], small, large)
                        large = tl.where((input < 2)[None, :], large.to(tl.float32), 0.0).to(TYPE)
                        offsets += large.to(tl.float32) * zero
                        total = tl.dot(planes[plane], large, total)
                    else:
                        offsets += (large.to(tl.float32) + small.to(tl.float32)) * zero
                        total = tl.dot(planes[plane], large, total)
                        total = tl.dot(planes[plane], small, total)
    result = total - tl.sum(offsets, 0)[None, :]
    place = output + tl.program_id(1).to(tl.int64) * output_stride_split
    if IS_ONE:
        one = tl.sum(result, 1)
        tl.store(place + of_part * num_parts + part, one.to(output.dtype.element_ty))
    else:
        place += input[None, :].to(tl.int64) * output_stride
        place += (of_part * num_parts + part)[:, None]
        tl.store(place, result.to(output.dtype.element_ty), mask=is_row[:, None] & is_input[None])


@triton.jit(do_not_specialize=["num_inputs"])
def _hqq_many_kernel(
    x,
    low,
    scales,
    zeros,
    output,
    num_inputs,
    num_parts,
    num_columns,
    num_blocks,
    x_stride,
    low_stride,
    scales_stride,
    output_stride,
    CODES: tl.constexpr,
    BIAS: tl.constexpr,
    IS_FAST: tl.constexpr,
    INPUTS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    # Programs that follow each other have the same weights, which then come from a cache.
    num_input_tiles = tl.cdiv(num_inputs, INPUTS)
    input = (tl.program_id(0) % num_input_tiles) * INPUTS + tl.arange(0, INPUTS)
    part = tl.program_id(0) // num_input_tiles
    of_part = tl.arange(0, _PART_ROWS)
    row = part * _PART_ROWS + of_part
    is_input, is_row = input < num_inputs, row < num_parts * _PART_ROWS
    lane = tl.arange(0, 32)
    x_rows = x + input[:, None].to(tl.int64) * x_stride
    low_rows = low + row[None, :].to(tl.int64) * low_stride
    scales_row = scales + part.to(tl.int64) * scales_stride + lane
    zeros_row = zeros + part.to(tl.int64) * scales_stride + lane
    total = tl.zeros([INPUTS, _PART_ROWS], tl.float32)
    for block in tl.range(0, num_blocks, num_stages=NUM_STAGES):
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
                x.dtype.element_ty,
                IS_FAST,
            )
            for plane in tl.static_range(4):
                at = block * 256 + (half * 4 + plane) * 32
                inside = is_input[:, None] & (at + lane < num_columns)[None, :]
                inputs = tl.load(x_rows + (at + lane)[None, :], mask=inside, other=0.0)
                code = planes[plane].to(tl.float32) - BIAS
                weights = (code - tl.load(zeros_row + at)[:, None]) * (
                    tl.load(scales_row + at)[:, None]
                )
                numbers = weights.to(x.dtype.element_ty)
                total = tl.dot(inputs, numbers, total, input_precision="ieee")
    place = output + input[:, None].to(tl.int64) * output_stride
    place += (of_part * num_parts + part)[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=is_input[:, None] & is_row[None, :])


def multiply_hqq(x: Tensor, matrix: PackedMatrix, output: Tensor, table: Table) -> None:
    """Fill output [T, O] with x [T, I] times the matrix, whatever T is."""
    if len(x) <= MAX_FEW:
        _multiply_few(x, matrix, output, table)
    else:
        _multiply_many(x, matrix, output, table)


def _constants(matrix: PackedMatrix, *, is_fast: bool) -> dict[str, object]:
    format = FORMATS[matrix.kind]
    magic = MAGIC_BIAS if is_fast and format.codes == "bits4" else 0
    return {"CODES": format.codes, "BIAS": format.bias + magic, "IS_FAST": is_fast}


def _multiply_few(x: Tensor, matrix: PackedMatrix, output: Tensor, table: Table) -> None:
    assert matrix.planes is not None, "a matrix on a GPU is in planes"
    low, _, scales, zeros, _ = matrix.planes
    is_half = x.dtype != torch.float32
    tiles = parts_tiles(table, len(x), x.element_size())
    blocks = num_blocks(matrix.num_columns)
    splits = num_splits(table, len(scales), blocks)
    parts = output[None]
    if splits > 1:
        parts = torch.empty(splits, *output.shape, dtype=torch.float32, device=x.device)
    _hqq_few_kernel[(len(scales), splits)](
        x,
        low,
        scales,
        zeros,
        parts,
        len(x),
        len(scales),
        matrix.num_columns,
        blocks,
        x.stride(0),
        low.stride(0),
        scales.stride(0),
        *parts.stride()[:2],
        **_constants(matrix, is_fast=is_half and not is_interpreting()),
        IS_HALF=is_half,
        IS_ONE=len(x) == 1,
        INPUTS=tiles.inputs,
        NUM_STAGES=tiles.num_stages,
        **tiles.options(),
    )
    if splits > 1:
        sum_splits(parts, output)


def _multiply_many(x: Tensor, matrix: PackedMatrix, output: Tensor, table: Table) -> None:
    assert matrix.planes is not None, "a matrix on a GPU is in planes"
    low, _, scales, zeros, _ = matrix.planes
    tiles = parts_tiles(table, len(x), x.element_size())
    _hqq_many_kernel[(len(scales) * triton.cdiv(len(x), tiles.inputs),)](
        x,
        low,
        scales,
        zeros,
        output,
        len(x),
        len(scales),
        matrix.num_columns,
        num_blocks(matrix.num_columns),
        x.stride(0),
        low.stride(0),
        scales.stride(0),
        output.stride(0),
        **_constants(matrix, is_fast=x.dtype == torch.bfloat16 and not is_interpreting()),
        INPUTS=tiles.inputs,
        NUM_STAGES=tiles.num_stages,
        **tiles.options(),
    )
