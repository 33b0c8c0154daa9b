"""A few inputs (2 to 16) times packed weights: a product for each group, its scale afterwards.

Weights are the side of 16 rows of a tensor core's product and inputs its side of eight columns.
Weights are never rounded: codes are exact in bfloat16, and scales meet the float32 sums.
"""

import triton
import triton.language as tl

from kernels.planes.loads import load_planes, load_scales


@triton.jit
def _add_group(
    total,
    plane,
    inputs,
    ones,
    scales,
    supers,
    place,
    block,
    is_row,
    SCALES: tl.constexpr,
    BIAS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
):
    products = tl.dot(plane, inputs, input_precision="ieee")
    scale, shift = load_scales(scales, supers, place, block, is_row, SCALES)
    if BIAS != 0 or HAS_SHIFT:
        sums = tl.dot(ones, inputs, input_precision="ieee")
        if SCALES == "float_pairs":
            shift = scale * shift
        total += scale[:, None] * (products - BIAS * sums)
        if HAS_SHIFT:
            total -= shift[:, None] * sums
    else:
        total += scale[:, None] * products
    return total


@triton.jit(do_not_specialize=["num_inputs"])
def _few_kernel(
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
    output_stride_split,
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
    """Output [splits, num_inputs, num_rows]: each split has some of the blocks."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    input = tl.arange(0, INPUTS)
    is_input = input < num_inputs
    lane = tl.arange(0, 32)
    low_rows = low + row[:, None].to(tl.int64) * low_stride
    high_rows = high + row[:, None].to(tl.int64) * high_stride
    x_rows = x + input[None, :] * x_stride + lane[:, None]
    ones = tl.full([ROWS, 32], 1.0, tl.float32).to(x.dtype.element_ty)
    total = tl.zeros([ROWS, INPUTS], tl.float32)
    split_blocks = tl.cdiv(num_blocks, tl.num_programs(1))
    begin = tl.program_id(1) * split_blocks
    end = tl.minimum(begin + split_blocks, num_blocks)
    for block in tl.range(begin, end, num_stages=NUM_STAGES):
        start = block * num_rows + row
        for half in tl.static_range(2):
            planes = load_planes(
                low_rows,
                high_rows,
                table,
                is_row[:, None],
                lane[None, :],
                block,
                half,
                CODES,
                x.dtype.element_ty,
                IS_FAST,
            )
            for plane in tl.static_range(4):
                at = block * 256 + (half * 4 + plane) * 32
                inside = (lane < 32)[:, None] & is_input[None, :]
                if not IS_WHOLE:
                    inside &= (at + lane < num_columns)[:, None]
                if GROUP == 16:
                    for part in tl.static_range(2):
                        own = inside & (lane // 16 == part)[:, None]
                        inputs = tl.load(x_rows + at, mask=own, other=0.0)
                        total = _add_group(
                            total,
                            planes[plane],
                            inputs,
                            ones,
                            scales,
                            supers,
                            start * 16 + (half * 8 + plane * 2 + part),
                            start,
                            is_row,
                            SCALES,
                            BIAS,
                            HAS_SHIFT,
                        )
                else:
                    inputs = tl.load(x_rows + at, mask=inside, other=0.0)
                    total = _add_group(
                        total,
                        planes[plane],
                        inputs,
                        ones,
                        scales,
                        supers,
                        start * (256 // GROUP) + (half * 4 + plane) // (GROUP // 32),
                        start,
                        is_row,
                        SCALES,
                        BIAS,
                        HAS_SHIFT,
                    )
    place = output + tl.program_id(1).to(tl.int64) * output_stride_split
    place += input[None, :].to(tl.int64) * output_stride + row[:, None]
    mask = is_row[:, None] & is_input[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=mask)
