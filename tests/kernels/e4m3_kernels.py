"""Kernels that do nothing but convert, for test_e4m3.py. Importing this imports Triton."""

import triton
import triton.language as tl

from kernels.e4m3 import e4m3_to_float32, float32_to_e4m3


@triton.jit
def widen(x, output, IS_NATIVE: tl.constexpr):
    i = tl.program_id(0) * 256 + tl.arange(0, 256)
    tl.store(output + i, e4m3_to_float32(tl.load(x + i), IS_NATIVE))


@triton.jit
def narrow(x, output, IS_NATIVE: tl.constexpr):
    i = tl.program_id(0) * 256 + tl.arange(0, 256)
    tl.store(output + i, float32_to_e4m3(tl.load(x + i), IS_NATIVE))
