"""The gate of a GEGLU MLP: gelu(gate) * up, GELU by tanh, one program a tile of a row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_rows

_MAX_BLOCK = 2048
# gate * (1 + tanh(z)) / 2 is gate / (1 + exp(-2 * z)); this makes 2 * z a power of two.
_POWER = tl.constexpr(2.302208198144325)  # 2 * sqrt(2 / pi) * log2(e)


@triton.jit
def _gelu_mul_kernel(gate_up, output, gate_up_stride, num_columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    start = gate_up + row * gate_up_stride
    gate = tl.load(start + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + num_columns + column, mask=inside, other=0.0).to(tl.float32)
    power = _POWER * (gate + 0.044715 * gate * gate * gate)
    # The exponent is never positive, so nothing overflows on either side of zero.
    small = tl.exp2(-tl.abs(power))
    share = tl.where(power >= 0, 1.0, small) / (1.0 + small)
    result = (gate * share * up).to(output.dtype.element_ty)
    tl.store(output + row * num_columns + column, result, mask=inside)


def gelu_mul(gate_up: Tensor) -> Tensor:
    """As kernels/reference/gelu_mul.py. Rows of `gate_up` may be strided."""
    expect("dimensions of gate_up", gate_up.dim(), 2)
    expect("columns of gate_up modulo 2", gate_up.shape[1] % 2, 0)
    expect_rows("gate_up", gate_up)
    num_rows, num_columns = gate_up.shape[0], gate_up.shape[1] // 2
    output = torch.empty(num_rows, num_columns, dtype=gate_up.dtype, device=gate_up.device)
    if output.numel():
        block = min(_MAX_BLOCK, triton.next_power_of_2(num_columns))
        grid = (num_rows, triton.cdiv(num_columns, block))
        _gelu_mul_kernel[grid](gate_up, output, gate_up.stride(0), num_columns, BLOCK=block)
    return output
