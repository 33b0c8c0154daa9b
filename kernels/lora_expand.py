"""Adapters' upper halves times shrunk rows, added to a projection's output, one row a program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_index, expect_like, expect_rows, expect_shape

_OUTPUTS = 128


@triton.jit
def _lora_expand_kernel(
    output,
    shrunk,
    up,
    adapters,
    scales,
    result,
    rank,
    num_outputs,
    output_stride,
    up_stride_a,
    up_stride_o,
    RANK: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    adapter = tl.load(adapters + token).to(tl.int64)
    out = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_out = out < num_outputs
    value = tl.load(output + token * output_stride + out, mask=is_out, other=0.0)
    if adapter >= 0:
        row = tl.arange(0, RANK)
        inputs = tl.load(shrunk + token * rank + row, mask=row < rank, other=0.0)
        rows = up + adapter * up_stride_a + out[:, None].to(tl.int64) * up_stride_o
        mask = is_out[:, None] & (row < rank)[None, :]
        weights = tl.load(rows + row[None, :], mask=mask, other=0.0).to(tl.float32)
        change = tl.sum(weights * inputs[None, :], 1) * tl.load(scales + adapter)
        value = (value.to(tl.float32) + change).to(output.dtype.element_ty)
    tl.store(result + token * num_outputs + out, value, mask=is_out)


def lora_expand(
    output: Tensor, shrunk: Tensor, up: Tensor, adapters: Tensor, scales: Tensor
) -> Tensor:
    """As kernels/reference/lora_expand.py. Output and `up` may be strided but in the last place."""
    expect("dimensions of output", output.dim(), 2)
    expect("dimensions of up", up.dim(), 3)
    rank = up.shape[2]
    expect_like("up", up, output)
    expect_shape("up", up, len(up), output.shape[1], rank)
    expect_shape("shrunk", shrunk, len(output), rank)
    expect_index("shrunk", shrunk, torch.float32, output)
    expect_shape("adapters", adapters, len(output))
    expect_index("adapters", adapters, torch.int32, output)
    expect_shape("scales", scales, len(up))
    expect_index("scales", scales, torch.float32, output)
    expect_rows("output", output)
    expect_rows("up", up)
    result = torch.empty(output.shape, dtype=output.dtype, device=output.device)
    if result.numel():
        _lora_expand_kernel[(len(output), triton.cdiv(output.shape[1], _OUTPUTS))](
            output,
            shrunk,
            up,
            adapters,
            scales,
            result,
            rank,
            output.shape[1],
            output.stride(0),
            up.stride(0),
            up.stride(1),
            RANK=triton.next_power_of_2(rank),
            OUTPUTS=_OUTPUTS,
        )
    return result
