"""A residual add and the RMSNorm after it, in one pass over the row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_like, expect_rows, expect_shape
from kernels.rms_norm import row_warps, scale_row


@triton.jit
def _add_rms_norm_kernel(
    x,
    residual,
    weight,
    normed,
    hidden,
    x_stride_p,
    x_stride,
    residual_stride,
    num_columns,
    eps,
    NUM_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    dtype: tl.constexpr = residual.dtype.element_ty
    added = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(1, NUM_PARTS):
        place = x + part * x_stride_p + row * x_stride
        added += tl.load(place + column, mask=inside, other=0.0).to(tl.float32)
    # As if the product's result had been stored.
    added = added.to(dtype).to(tl.float32)
    added += tl.load(residual + row * residual_stride + column, mask=inside, other=0.0).to(
        tl.float32
    )
    # The residual stream lives in the model's type: norm the value that later layers will read.
    rounded = added.to(dtype)
    place = row * num_columns + column
    tl.store(hidden + place, rounded, mask=inside)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    scaled = scale_row(rounded.to(tl.float32), scale, num_columns, eps, weight.dtype.element_ty)
    tl.store(normed + place, scaled.to(normed.dtype.element_ty), mask=inside)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As kernels/reference/add_rms_norm.py. Rows of `x` and `residual` may be strided."""
    expect("dimensions of residual", residual.dim(), 2)
    if x.dim() == 3:
        expect_shape("x", x, x.shape[0], *residual.shape)
        expect("dtype of x in parts", x.dtype, torch.float32)
        expect("device of x", x.device, residual.device)
    else:
        expect_shape("residual", residual, *x.shape)
        expect_like("residual", residual, x)
    expect_shape("weight", weight, residual.shape[1])
    expect("device of weight", weight.device, residual.device)
    for name, tensor in (("x", x), ("residual", residual), ("weight", weight)):
        expect_rows(name, tensor)
    normed = torch.empty(residual.shape, dtype=residual.dtype, device=residual.device)
    hidden = torch.empty_like(normed)
    if residual.numel():
        block = triton.next_power_of_2(residual.shape[1])
        _add_rms_norm_kernel[(len(residual),)](
            x,
            residual,
            weight,
            normed,
            hidden,
            x.stride(0) if x.dim() == 3 else 0,
            x.stride(-2),
            residual.stride(0),
            residual.shape[1],
            eps,
            NUM_PARTS=x.shape[0] if x.dim() == 3 else 1,
            BLOCK=block,
            num_warps=row_warps(block),
        )
    return normed, hidden
