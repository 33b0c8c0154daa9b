"""What layers know of where tokens are to each other: rotary angles, or biases of distances."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.encoders.config import EncoderConfig
from engine.layers.linear import parameter
from engine.layers.rotary import Rotation
from engine.weights.loader import Loader

_FARTHEST = 128  # from here on all distances have the last bucket


class Places(NamedTuple):
    """A step's: `biases` as `ops.varlen_attention` takes them."""

    rotations: Sequence[Rotation]
    biases: Tensor | None


class DistanceBiases(nn.Module):
    """T5's buckets, as MPNet has them (arXiv 1910.10683, 2.1): near distances have one each."""

    def __init__(self, config: EncoderConfig, device: torch.device) -> None:
        super().__init__()
        shape = (config.num_buckets, config.num_heads)
        self.weight = parameter(shape, torch.float32, device)

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight`."""
        loader.copy(f"{name}.weight", self.weight)

    def forward(self) -> Tensor:
        """[heads, 2R + 1] for the distances from -R to R."""
        distances = torch.arange(-_FARTHEST, _FARTHEST + 1, device=self.weight.device)
        return self.weight[buckets(distances, len(self.weight))].T.contiguous()


def buckets(distances: Tensor, num_buckets: int) -> Tensor:
    """The bucket of a token so many places behind the one that looks; half of them are for these.

    Of each half, half have one distance, and the others grow with its logarithm.
    """
    half = num_buckets // 2
    near = half // 2
    far = distances.abs()
    growth = torch.log(far.clamp(min=1).float() / near) / math.log(_FARTHEST / near)
    grown = (near + (growth * (half - near)).long()).clamp(max=half - 1)
    return torch.where(far < near, far, grown) + (distances > 0) * half
