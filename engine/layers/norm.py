"""Normalisation with learned weights: root-mean-square and layer norm. Knows one row at a time."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.layers.linear import parameter
from engine.weights.loader import Loader
from kernels import ops


class Norm(Protocol):
    """What a layer needs of a norm."""

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight` and, if it has one, `{name}.bias`."""

    def __call__(self, x: Tensor) -> Tensor:
        """[T, D] or [T, H, D] to the same shape."""

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """`x + residual` normalised, and `x + residual` itself."""


class RMSNorm(nn.Module):
    """`x / rms(x) * (weight + offset)` over the last dimension (arXiv 1910.07467).

    With an offset, Gemma's way, the weight is kept in float32: rounding the sum would lose what
    the offset was to save.
    """

    def __init__(
        self, size: int, eps: float, dtype: torch.dtype, device: torch.device, offset: float = 0.0
    ) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.weight = parameter((size,), torch.float32 if offset else dtype, device)

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight`."""
        loader.copy(f"{name}.weight", self.weight)
        if self.offset:
            self.weight.add_(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] or [T, H, D] to the same shape."""
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """`x + residual` normalised, and `x + residual` itself."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)


class LayerNorm(nn.Module):
    """`(x - mean) / deviation * weight + bias` over the last dimension (arXiv 1607.06450)."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.eps = eps
        self.weight = parameter((size,), dtype, device)
        self.bias = parameter((size,), dtype, device)

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight` and `{name}.bias`."""
        loader.copy(f"{name}.weight", self.weight)
        loader.copy(f"{name}.bias", self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] to the same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """`x + residual` normalised, and `x + residual` itself."""
        total = x + residual
        return self.forward(total), total


def make_norm(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> RMSNorm | LayerNorm:
    """The model's norm over a token's hidden state."""
    if config.norm == "layer":
        return LayerNorm(config.hidden_size, config.norm_eps, dtype, device)
    return RMSNorm(config.hidden_size, config.norm_eps, dtype, device, config.norm_offset)
