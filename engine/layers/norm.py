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

    With a float32 weight, as Gemma has it, the product is rounded but not its factors.
    """

    def __init__(
        self, size: int, eps: float, dtype: torch.dtype, device: torch.device, offset: float = 0.0
    ) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.weight = parameter((size,), dtype, device)

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

    def __init__(
        self,
        size: int,
        eps: float,
        dtype: torch.dtype,
        device: torch.device,
        *,
        has_bias: bool = True,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = parameter((size,), dtype, device)
        self.bias = parameter((size,), dtype, device) if has_bias else None

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight` and, if it has one, `{name}.bias`."""
        loader.copy(f"{name}.weight", self.weight)
        if self.bias is not None:
            loader.copy(f"{name}.bias", self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] or [T, H, D] to the same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """`x + residual` normalised, and `x + residual` itself."""
        total = x + residual
        return self.forward(total), total


def make_norm(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, size: int = 0
) -> RMSNorm | LayerNorm:
    """The model's norm over a token's hidden state, or over `size` values."""
    size = size or config.hidden_size
    if config.norm == "layer":
        return LayerNorm(size, config.norm_eps, dtype, device)
    weight_dtype = torch.float32 if config.is_norm_wide else dtype
    return RMSNorm(size, config.norm_eps, weight_dtype, device, config.norm_offset)
