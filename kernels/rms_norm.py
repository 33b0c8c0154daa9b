"""RMSNorm: one program normalises one row, held in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_rows, expect_shape


@triton.jit
def scale_row(hidden, weight, num_columns, eps, dtype: tl.constexpr):
    """RMSNorm of one float32 row padded with zeros; rounded to `dtype` before the weight."""
    mean_square = tl.sum(hidden * hidden, axis=0) / num_columns
    normed = (hidden * tl.rsqrt(mean_square + eps)).to(dtype)
    return normed.to(tl.float32) * weight


@triton.jit
def _rms_norm_kernel(
    x,
    weight,
    output,
    x_stride_t,
    x_stride_h,
    num_heads,
    num_columns,
    eps,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    start = x + (row // num_heads) * x_stride_t + (row % num_heads) * x_stride_h
    hidden = tl.load(start + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    scaled = scale_row(hidden, scale, num_columns, eps, weight.dtype.element_ty)
    place = output + row * num_columns + column
    tl.store(place, scaled.to(output.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As kernels/reference/rms_norm.py. `x` may be strided in all but its last dimension."""
    if x.dim() not in (2, 3):
        raise ValueError(f"dimensions of x: got {x.dim()}, expected 2 or 3")
    num_columns = x.shape[-1]
    expect_shape("weight", weight, num_columns)
    expect("device of weight", weight.device, x.device)
    expect_rows("x", x)
    expect_rows("weight", weight)
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    num_heads = x.shape[1] if x.dim() == 3 else 1
    if x.numel():
        block = triton.next_power_of_2(num_columns)
        _rms_norm_kernel[(x.shape[0] * num_heads,)](
            x,
            weight,
            output,
            x.stride(0),
            x.stride(1) if x.dim() == 3 else 0,
            num_heads,
            num_columns,
            eps,
            BLOCK=block,
            num_warps=row_warps(block),
        )
    return output


def row_warps(block: int) -> int:
    """Warps for a row of `block` elements: about 16 elements a thread, 1 to 16 warps."""
    return max(1, min(16, block // 512))
