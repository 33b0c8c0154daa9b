"""Rows times the lower halves of their adapters. A program has one row: any mixture, no sorting."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_index, expect_like, expect_rows, expect_shape

_INPUTS = 256


@triton.jit
def _lora_shrink_kernel(
    x,
    down,
    adapters,
    output,
    rank,
    num_inputs,
    x_stride,
    down_stride_a,
    down_stride_r,
    RANK: tl.constexpr,
    INPUTS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    adapter = tl.load(adapters + token).to(tl.int64)
    row = tl.program_id(1) * RANK + tl.arange(0, RANK)
    total = tl.zeros([RANK, INPUTS], tl.float32)
    if adapter >= 0:
        rows = down + adapter * down_stride_a + row[:, None].to(tl.int64) * down_stride_r
        for start in tl.range(0, num_inputs, INPUTS):
            place = start + tl.arange(0, INPUTS)
            inside = place < num_inputs
            inputs = tl.load(x + token * x_stride + place, mask=inside, other=0.0)
            mask = (row < rank)[:, None] & inside[None, :]
            weights = tl.load(rows + place[None, :], mask=mask, other=0.0)
            total += weights.to(tl.float32) * inputs.to(tl.float32)[None, :]
    tl.store(output + token * rank + row, tl.sum(total, 1), mask=row < rank)


def lora_shrink(x: Tensor, down: Tensor, adapters: Tensor) -> Tensor:
    """As kernels/reference/lora_shrink.py. All but the last dimension may be strided."""
    expect("dimensions of x", x.dim(), 2)
    expect("dimensions of down", down.dim(), 3)
    expect_like("down", down, x)
    expect_shape("down", down, *down.shape[:2], x.shape[1])
    expect_shape("adapters", adapters, len(x))
    expect_index("adapters", adapters, torch.int32, x)
    expect_rows("x", x)
    expect_rows("down", down)
    rank = down.shape[1]
    output = torch.empty(len(x), rank, dtype=torch.float32, device=x.device)
    if output.numel():
        _lora_shrink_kernel[(len(x), triton.cdiv(rank, 16))](
            x,
            down,
            adapters,
            output,
            rank,
            x.shape[1],
            x.stride(0),
            down.stride(0),
            down.stride(1),
            RANK=16,
            INPUTS=_INPUTS,
        )
    return output
