"""FP8: a float of 4 exponent and 3 mantissa bits (E4M3) a weight, one scale for a whole matrix."""

import torch
from torch import Tensor

from engine.quant.tensor_format import PackedTensor, TensorFormat

_LARGEST = 448.0  # of torch.float8_e4m3fn
_CHUNK_WEIGHTS = 1 << 20  # at a time, so that no copy of a whole matrix is made in float32


def quantize(weights: Tensor) -> PackedTensor:
    """The largest weight becomes the largest E4M3 number; scales is one number, []."""
    flat = torch.split(weights.reshape(-1), _CHUNK_WEIGHTS)
    largest = torch.stack([part.float().abs().amax() for part in flat]).amax()
    if not largest.isfinite():
        raise ValueError("there are weights that are infinite or not a number")
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    codes = torch.cat([_codes(part, scale) for part in flat]).view(weights.shape)
    return PackedTensor(codes, scale, None, tuple(weights.shape))


def _codes(weights: Tensor, scale: Tensor) -> Tensor:
    scaled = (weights.float() / scale).clamp_(-_LARGEST, _LARGEST)
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8)


def dequantize(packed: PackedTensor) -> Tensor:
    return packed.codes.view(torch.float8_e4m3fn).float() * packed.scales


FP8 = TensorFormat("FP8", 1, quantize, dequantize)
