"""The sum of a product's splits, in one order, so that the same inputs give the same bits."""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512


@triton.jit(do_not_specialize=["num_inputs", "num_splits"])
def _splits_kernel(parts, output, num_inputs, num_rows, num_splits, stride, BLOCK: tl.constexpr):
    input = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(num_splits):
        place = parts + (split * num_inputs + input) * num_rows + row
        total += tl.load(place, mask=inside, other=0.0)
    tl.store(output + input * stride + row, total.to(output.dtype.element_ty), mask=inside)


def sum_splits(parts: Tensor, output: Tensor) -> None:
    """The sum of parts float32 [splits, T, O] over the splits, into output [T, O]."""
    num_splits, num_inputs, num_rows = parts.shape
    grid = (num_inputs, triton.cdiv(num_rows, _BLOCK))
    _splits_kernel[grid](
        parts, output, num_inputs, num_rows, num_splits, output.stride(0), BLOCK=_BLOCK
    )
