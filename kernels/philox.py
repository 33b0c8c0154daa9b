"""Philox4x32-10 uniforms as a pure function of seed, choice and position, on the device."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect_index, expect_shape

_BLOCK = 1024


@triton.jit
def _uniform_kernel(seeds, choices, positions, output, num, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    counter = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    position = tl.load(positions + row).to(tl.uint32)
    choice = tl.load(choices + row).to(tl.uint32)
    zero = counter * 0
    words = tl.philox(tl.load(seeds + row), counter, zero + position, zero + choice, zero)
    for lane in tl.static_range(4):
        column = counter * 4 + lane
        value = ((words[lane] >> 9).to(tl.float32) + 0.5) * (2.0**-23)
        tl.store(output + row * num + column, value, mask=column < num)


def uniform(seeds: Tensor, choices: Tensor, positions: Tensor, num: int) -> Tensor:
    """As kernels/reference/philox.py, bit for bit."""
    for name, tensor in (("seeds", seeds), ("choices", choices), ("positions", positions)):
        expect_shape(name, tensor, seeds.shape[0])
        expect_index(name, tensor, torch.int64, seeds)
    output = torch.empty(seeds.shape[0], num, dtype=torch.float32, device=seeds.device)
    if output.numel():
        grid = (seeds.shape[0], triton.cdiv(num, 4 * _BLOCK))
        _uniform_kernel[grid](seeds, choices, positions, output, num, BLOCK=_BLOCK)
    return output
