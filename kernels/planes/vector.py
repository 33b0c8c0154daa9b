"""One input times packed weights: eight groups side by side in the columns of one product.

A tensor core multiplies by eight columns at least. Column c has the input where it belongs to group
c and zeros elsewhere, so one chain of products leaves the sums of eight groups beside each other,
and scales are taken once for eight groups. A product with ones sums the inputs of each group,
which a bias or a shift of the group is multiplied by. Weights are never rounded.
"""

import triton
import triton.language as tl

from kernels.planes.loads import load_planes, load_scales


@triton.jit
def _load_own(
    x,
    block,
    lane,
    column,
    num_columns,
    PLANE: tl.constexpr,
    GROUP: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    """The inputs of a plane [32, 8], each in the column of its group."""
    at = block * 256 + PLANE * 32 + lane
    own = (PLANE % 4) * 2 + lane // 16 if GROUP == 16 else PLANE + lane * 0
    is_own = own[:, None] == column[None, :]
    if not IS_WHOLE:
        is_own &= (at < num_columns)[:, None]
    return tl.load(x + at[:, None] + column[None, :] * 0, mask=is_own, other=0.0)


@triton.jit
def _vector_kernel(
    x,
    low,
    high,
    scales,
    supers,
    table,
    output,
    num_rows,
    num_columns,
    num_blocks,
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
    ROWS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Output [splits, num_rows]: each split has some of the blocks."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    column = tl.arange(0, 8)
    lane = tl.arange(0, 32)
    low_rows = low + row[:, None].to(tl.int64) * low_stride
    high_rows = high + row[:, None].to(tl.int64) * high_stride
    ones = tl.full([ROWS, 32], 1.0, tl.float32).to(x.dtype.element_ty)
    total = tl.zeros([ROWS, 8], tl.float32)
    split_blocks = tl.cdiv(num_blocks, tl.num_programs(1))
    begin = tl.program_id(1) * split_blocks
    end = tl.minimum(begin + split_blocks, num_blocks)
    for block in tl.range(begin, end, num_stages=NUM_STAGES):
        products = tl.zeros([ROWS, 8], tl.float32)
        sums = tl.zeros([ROWS, 8], tl.float32)
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
                inputs = _load_own(
                    x, block, lane, column, num_columns, half * 4 + plane, GROUP, IS_WHOLE
                )
                products = tl.dot(planes[plane], inputs, products, input_precision="ieee")
                if BIAS != 0 or HAS_SHIFT:
                    sums = tl.dot(ones, inputs, sums, input_precision="ieee")
            if GROUP == 16 or half == 1:
                start = (block * num_rows + row)[:, None]
                group = half * 8 + column if GROUP == 16 else column // (GROUP // 32)
                scale, shift = load_scales(
                    scales,
                    supers,
                    start * (256 // GROUP) + group[None, :],
                    start,
                    is_row[:, None],
                    SCALES,
                )
                if SCALES == "float_pairs":
                    shift = scale * shift
                total += scale * (products - BIAS * sums)
                if HAS_SHIFT:
                    total -= shift * sums
                products = tl.zeros([ROWS, 8], tl.float32)
                sums = tl.zeros([ROWS, 8], tl.float32)
    place = output + tl.program_id(1).to(tl.int64) * output_stride + row
    tl.store(place, tl.sum(total, 1).to(output.dtype.element_ty), mask=is_row)
