"""FP8: a float of 4 exponent and 3 mantissa bits (E4M3) a weight, one scale for a whole matrix."""

from collections.abc import Iterable

import torch
from torch import Tensor

from engine.quant.tensor_format import PackedTensor, TensorFormat

_LARGEST = 448.0  # of torch.float8_e4m3fn
_CHUNK_WEIGHTS = 1 << 20  # at a time, so that no copy of a whole matrix is made in float32


def quantize(weights: Tensor) -> PackedTensor:
    """The largest weight becomes the largest E4M3 number; scales is one number, []."""
    scale = scale_of([weights])
    return PackedTensor(codes_of(weights, scale), scale, None, tuple(weights.shape))


def scale_of(pieces: Iterable[Tensor]) -> Tensor:
    """The scale [] of a matrix, given in pieces. Raises ValueError if a weight is not finite."""
    parts = (part for piece in pieces for part in _parts(piece))
    largest = torch.stack([part.float().abs().amax() for part in parts]).amax()
    if not largest.isfinite():
        raise ValueError("there are weights that are infinite or not a number")
    return torch.where(largest > 0, largest / _LARGEST, 1.0)


def codes_of(weights: Tensor, scale: Tensor) -> Tensor:
    """E4M3 codes, uint8, of the same shape."""
    return torch.cat([_codes(part, scale) for part in _parts(weights)]).view(weights.shape)


def _parts(weights: Tensor) -> tuple[Tensor, ...]:
    return torch.split(weights.reshape(-1), _CHUNK_WEIGHTS)


def _codes(weights: Tensor, scale: Tensor) -> Tensor:
    scaled = (weights.float() / scale).clamp_(-_LARGEST, _LARGEST)
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8)


def dequantize(packed: PackedTensor) -> Tensor:
    return packed.codes.view(torch.float8_e4m3fn).float() * packed.scales


FP8 = TensorFormat("FP8", 1, quantize, dequantize)
