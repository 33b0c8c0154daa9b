"""Chosen parts of the rows of kernels/philox.py, one thread a quad."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect_index, expect_shape

_BLOCK = 256


@triton.jit
def _uniform_quads_kernel(
    seeds, choices, positions, rows, quads, output, num_quads, BLOCK: tl.constexpr
):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < num_quads
    row = tl.load(rows + index, mask=inside, other=0)
    counter = tl.load(quads + index, mask=inside, other=0).to(tl.uint32)
    position = tl.load(positions + row, mask=inside, other=0).to(tl.uint32)
    choice = tl.load(choices + row, mask=inside, other=0).to(tl.uint32)
    seed = tl.load(seeds + row, mask=inside, other=0)
    words = tl.philox(seed, counter, position, choice, counter * 0)
    for lane in tl.static_range(4):
        value = ((words[lane] >> 9).to(tl.float32) + 0.5) * (2.0**-23)
        tl.store(output + index * 4 + lane, value, mask=inside)


def uniform_quads(
    seeds: Tensor, choices: Tensor, positions: Tensor, rows: Tensor, quads: Tensor
) -> Tensor:
    """As kernels/reference/uniform_quads.py, bit for bit."""
    for name, tensor in (("seeds", seeds), ("choices", choices), ("positions", positions)):
        expect_shape(name, tensor, seeds.shape[0])
        expect_index(name, tensor, torch.int64, seeds)
    for name, tensor in (("rows", rows), ("quads", quads)):
        expect_shape(name, tensor, rows.shape[0])
        expect_index(name, tensor, torch.int64, seeds)
    output = torch.empty(rows.shape[0], 4, dtype=torch.float32, device=seeds.device)
    if output.numel():
        grid = (triton.cdiv(rows.shape[0], _BLOCK),)
        _uniform_quads_kernel[grid](
            seeds, choices, positions, rows, quads, output, rows.shape[0], BLOCK=_BLOCK
        )
    return output
