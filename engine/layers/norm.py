"""Root-mean-square normalisation with a learned scale. Knows one row at a time."""

import torch
from torch import Tensor, nn

from engine.layers.linear import parameter
from engine.weights.loader import Loader
from kernels import ops


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last dimension (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.eps = eps
        self.weight = parameter((size,), dtype, device)

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight`."""
        loader.copy(f"{name}.weight", self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] or [T, H, D] to the same shape."""
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """`x + residual` normalised, and `x + residual` itself."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)
