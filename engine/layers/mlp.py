"""The gated feed-forward block, SwiGLU. Knows nothing of attention."""

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.layers.linear import Linear
from engine.weights.loader import Loader
from kernels import ops


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))` (arXiv 2002.05202), gate and up as one Linear."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = Linear(hidden, (inner, inner), dtype, device, bias=bias)
        self.down_proj = Linear(inner, (hidden,), dtype, device, bias=bias)

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the three projections below `prefix`."""
        self.gate_up_proj.load(loader, f"{prefix}.gate_proj", f"{prefix}.up_proj")
        self.down_proj.load(loader, f"{prefix}.down_proj")

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        output: Tensor = self.down_proj(ops.silu_mul(self.gate_up_proj(x)))
        return output
