"""The feed-forward block of a layer, gated or plain. Knows nothing of attention."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import Activation, ModelConfig
from engine.errors import LoadError
from engine.layers.linear import Linear
from engine.weights.loader import Loader
from kernels import ops
from kernels.packed import Projection

_GATES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": ops.silu_mul,
    "gelu_tanh": ops.gelu_mul,
}
_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def gate_of(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    """The model's `act(gate) * up` of [T, 2I]. Raises LoadError for one that has no kernel."""
    if config.activation not in _GATES:
        raise LoadError(
            f"a gated MLP with the activation {config.activation} is not supported; supported "
            f"are {', '.join(_GATES)}."
        )
    return _GATES[config.activation]


def activation_of(name: Activation) -> Callable[[Tensor], Tensor]:
    """The activation by itself."""
    return _ACTIVATIONS[name]


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
        """Fill from the projections below `prefix`.

        `gate_up` may be one tensor that has both; where there is a `gate_up_proj`, it is.
        """
        if loader.has(f"{prefix}.gate_up_proj.weight"):
            gate_up = ("gate_up_proj",)
        self.gate_up_proj.load(loader, *(f"{prefix}.{name}" for name in gate_up))
        self.down_proj.load(loader, f"{prefix}.down_proj")

    def packed_parts(self) -> tuple[Projection, Projection, bool] | None:
        """Both projections and whether the gate is GELU, where weights are packed."""
        gate_up, down = self.gate_up_proj.projection(), self.down_proj.projection()
        if gate_up is None or down is None:
            return None
        return gate_up, down, self.gate is ops.gelu_mul

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        packed = self.packed_parts()
        if packed is not None:
            return ops.packed_mlp(x, *packed)
        output: Tensor = self.down_proj(self.gate(self.gate_up_proj(x)))
        return output


class MLP(nn.Module):
    """`down(act(up(x)))`. A family has its own names for the two."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        names: tuple[str, str],
    ) -> None:
        """`names` are those of the two projections in a checkpoint."""
        super().__init__()
        self.names = names
        self.activation = activation_of(config.activation)
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.up_proj = Linear(hidden, (inner,), dtype, device, bias=bias)
        self.down_proj = Linear(inner, (hidden,), dtype, device, bias=bias)

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the projections below `prefix`."""
        up, down = self.names
        self.up_proj.load(loader, f"{prefix}.{up}")
        self.down_proj.load(loader, f"{prefix}.{down}")

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        output: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return output
