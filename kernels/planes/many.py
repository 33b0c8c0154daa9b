"""Many inputs times packed weights: a tile of weights becomes numbers in registers, once a tile.

Weights are rounded to the inputs' type, as they are when a model is loaded unpacked. Rows may be in
groups, each with a matrix of its own below the others.
"""

import triton
import triton.language as tl

from kernels.planes.loads import load_planes, load_scales


@triton.jit
def plane_weights(
    plane,
    scales,
    supers,
    start,
    is_row,
    lane,
    GROUP_AT: tl.constexpr,
    SCALES: tl.constexpr,
    GROUP: tl.constexpr,
    BIAS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
):
    """float32 of a plane [32, rows] whose columns begin at 16 times GROUP_AT in the block."""
    if GROUP == 16:
        place = start[None, :] * 16 + GROUP_AT + (lane // 16)[:, None]
        scale, shift = load_scales(scales, supers, place, start[None, :], is_row[None, :], SCALES)
    else:
        place = start * (256 // GROUP) + GROUP_AT * 16 // GROUP
        scale, shift = load_scales(scales, supers, place, start, is_row, SCALES)
        scale, shift = scale[None, :], shift[None, :]
    value = plane.to(tl.float32)
    if BIAS != 0:
        value -= BIAS
    if SCALES == "float_pairs":
        return (value - shift) * scale
    elif HAS_SHIFT:
        return value * scale - shift
    else:
        return value * scale


@triton.jit
def multiply_tile(
    x_rows,
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
    """Inputs at `x_rows` [INPUTS, 1] times rows `row` [ROWS] of `num_rows`, float32."""
    lane = tl.arange(0, 32)
    low_rows = low + row[None, :].to(tl.int64) * low_stride
    high_rows = high + row[None, :].to(tl.int64) * high_stride
    total = tl.zeros([INPUTS, ROWS], tl.float32)
    for block in tl.range(0, num_blocks, num_stages=NUM_STAGES):
        start = block * num_rows + row
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
                x_rows.dtype.element_ty,
                IS_FAST,
            )
            for plane in tl.static_range(4):
                at = block * 256 + (half * 4 + plane) * 32 + lane
                inside = is_input[:, None] & (lane < 32)[None, :]
                if not IS_WHOLE:
                    inside &= (at < num_columns)[None, :]
                inputs = tl.load(x_rows + at[None, :], mask=inside, other=0.0)
                weights = plane_weights(
                    planes[plane],
                    scales,
                    supers,
                    start,
                    is_row,
                    lane,
                    (half * 4 + plane) * 2,
                    SCALES,
                    GROUP,
                    BIAS,
                    HAS_SHIFT,
                )
                numbers = weights.to(x_rows.dtype.element_ty)
                total = tl.dot(inputs, numbers, total, input_precision="ieee")
    return total
