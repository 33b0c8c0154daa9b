"""The feed-forward block of a layer. Knows nothing of attention."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.layers.linear import Linear
from engine.weights.loader import Loader
from kernels import ops

_GATES: Mapping[str, Callable[[Tensor], Tensor]] = {"silu": ops.silu_mul}


def gate_of(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    """The model's `act(gate) * up` of [T, 2I]. Raises LoadError for one that has no kernel."""
    if config.activation not in _GATES:
        raise LoadError(
            f"a gated MLP with the activation {config.activation} is not supported; supported "
            f"are {', '.join(_GATES)}."
        )
    return _GATES[config.activation]


class GatedMLP(nn.Module):
    """`down(act(gate(x)) * up(x))` (arXiv 2002.05202), gate and up as one Linear."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Raises LoadError for an activation that has no kernel."""
        super().__init__()
        self.gate = gate_of(config)
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = Linear(hidden, (inner, inner), dtype, device, bias=bias)
        self.down_proj = Linear(inner, (hidden,), dtype, device, bias=bias)

    def load(
        self, loader: Loader, prefix: str, gate_up: Sequence[str] = ("gate_proj", "up_proj")
    ) -> None:
        """Fill from the projections below `prefix`. `gate_up` may be one tensor that has both."""
        self.gate_up_proj.load(loader, *(f"{prefix}.{name}" for name in gate_up))
        self.down_proj.load(loader, f"{prefix}.down_proj")

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        output: Tensor = self.down_proj(self.gate(self.gate_up_proj(x)))
        return output
