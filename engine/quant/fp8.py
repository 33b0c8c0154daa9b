"""FP8: a float of 4 exponent and 3 mantissa bits (E4M3) a weight, one scale for a whole matrix."""

import torch
from torch import Tensor

from engine.quant.tensor_format import PackedTensor, TensorFormat

_LARGEST = 448.0  # of torch.float8_e4m3fn


def quantize(weights: Tensor) -> PackedTensor:
    """The largest weight becomes the largest E4M3 number; scales is one number, []."""
    weights = weights.float()
    if not weights.isfinite().all():
        raise ValueError("there are weights that are infinite or not a number")
    largest = weights.abs().amax()
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    codes = (weights / scale).clamp_(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return PackedTensor(codes.view(torch.uint8), scale, None, tuple(weights.shape))


def dequantize(packed: PackedTensor) -> Tensor:
    return packed.codes.view(torch.float8_e4m3fn).float() * packed.scales


FP8 = TensorFormat("FP8", 1, quantize, dequantize)
