"""8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa) as bit patterns, inside kernels.

Tensors of them go to kernels as uint8: GPUs before sm_89 have no such type, and calculate it here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.architecture import capability_of

_NATIVE = 89  # the compute capability from which on conversions are instructions
_NAN = tl.constexpr(0x7F)
_LARGEST = tl.constexpr(448.0)


def as_bits(tensor: Tensor) -> Tensor:
    """The tensor as a kernel takes it: e4m3 as uint8, others as they are."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


def is_native(device: torch.device) -> bool:
    """Whether the GPU converts by itself."""
    return capability_of(device) >= _NATIVE


@triton.jit
def e4m3_to_float32(bits, IS_NATIVE: tl.constexpr):
    """The number of each bit pattern (uint8); exact."""
    if IS_NATIVE:
        return bits.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    else:
        word = bits.to(tl.uint32)
        magnitude = word & 0x7F
        # Exponent and mantissa in place; the exponents' biases differ by 120, subnormals included.
        number = ((word >> 7 << 31) | (magnitude << 20)).to(tl.float32, bitcast=True) * (2.0**120)
        return tl.where(magnitude == _NAN, float("nan"), number)


@triton.jit
def float32_to_e4m3(values, IS_NATIVE: tl.constexpr):
    """The nearest bit pattern (uint8), ties to even; what is beyond the largest becomes it."""
    if IS_NATIVE:
        return values.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        number = tl.minimum(tl.abs(values), _LARGEST)
        word = number.to(tl.uint32, bitcast=True)
        normal = ((word + 0x7FFFF + ((word >> 20) & 1)) >> 20) - (120 << 3)
        # The sum's last mantissa bit is 2^-9, e4m3's smallest step: the addition rounds.
        small = (number + 16384.0).to(tl.uint32, bitcast=True) & 0xF
        magnitude = tl.where(number < 2.0**-6, small, normal)
        magnitude = tl.where(values == values, magnitude, _NAN)  # not so if it is no number
        sign = values.to(tl.uint32, bitcast=True) >> 31 << 7
        return (magnitude | sign).to(tl.uint8)


@triton.jit
def store_rounded(place, x, inside, dtype: tl.constexpr, IS_NATIVE: tl.constexpr):
    """Round float32 to `dtype`, and then to e4m3 if that is what lies at `place`."""
    rounded = x.to(dtype)
    if place.dtype.element_ty == tl.uint8:
        tl.store(place, float32_to_e4m3(rounded.to(tl.float32), IS_NATIVE), mask=inside)
    else:
        tl.store(place, rounded, mask=inside)
