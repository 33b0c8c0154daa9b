"""The layers of an encoder: attention both ways, feed-forward, norms before or behind them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.encoders.batch import Packed
from engine.encoders.config import EncoderConfig
from engine.encoders.families import LayerNames
from engine.layers.linear import Linear
from engine.layers.mlp import activation_of
from engine.layers.norm import LayerNorm
from engine.layers.rotary import Rotation, rotary_of
from engine.weights.loader import Loader
from kernels import ops


def make_norm(config: EncoderConfig, dtype: torch.dtype, device: torch.device) -> LayerNorm:
    """The norm of a token's state."""
    size, eps = config.hidden_size, config.norm_eps
    return LayerNorm(size, eps, dtype, device, has_bias=config.has_norm_bias)


class SelfAttention(nn.Module):
    """Every token sees its whole sequence or, with a window, its neighbours."""

    def __init__(
        self, config: EncoderConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.window(layer)
        self.rotary = None if config.num_positions else rotary_of(config, layer)
        size = config.num_heads * config.head_dim
        hidden = config.hidden_size
        self.qkv_proj = Linear(hidden, (size,) * 3, dtype, device, bias=config.attention_bias)
        self.o_proj = Linear(size, (hidden,), dtype, device, bias=config.attention_output_bias)

    def forward(self, x: Tensor, batch: Packed, rotations: Sequence[Rotation]) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        heads = self.qkv_proj(x).unflatten(1, (3, -1, self.head_dim))
        query, key, value = heads.unbind(1)
        if self.rotary is not None:
            query, key = ops.rotary(query, key, *rotations[self.rotary])
        scale = self.head_dim**-0.5
        attended = ops.varlen_attention(query, key, value, batch.starts, scale, self.window)
        output: Tensor = self.o_proj(attended.flatten(1))
        return output


class FeedForward(nn.Module):
    """`down(act(up(x)))`, or gated `down(act(gate(x)) * up(x))`."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.activation = activation_of(config.activation)
        self.is_gated = config.is_gated
        inner = (config.intermediate_size,) * (1 + config.is_gated)
        hidden, bias = config.hidden_size, config.mlp_bias
        self.up_proj = Linear(hidden, inner, dtype, device, bias=bias)
        self.down_proj = Linear(inner[0], (hidden,), dtype, device, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        up: Tensor = self.up_proj(x)
        if self.is_gated:
            gate, up = up.chunk(2, dim=-1)
            inner = self.activation(gate) * up
        else:
            inner = self.activation(up)
        output: Tensor = self.down_proj(inner)
        return output


class EncoderLayer(nn.Module):
    """Attention, then the feed-forward block, each added to what it was given.

    BERT normalises the sums; a layer with `is_pre_norm` what goes into the blocks, but for what
    goes into the first layer's attention: that is normalised already.
    """

    def __init__(
        self, config: EncoderConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__()
        self.is_pre_norm = config.is_pre_norm
        self.attention = SelfAttention(config, dtype, device, layer)
        self.mlp = FeedForward(config, dtype, device)
        self.mlp_norm = make_norm(config, dtype, device)
        has_norm = layer > 0 or not config.is_pre_norm
        self.attention_norm = make_norm(config, dtype, device) if has_norm else None

    def load(self, loader: Loader, prefix: str, names: LayerNames) -> None:
        """Fill from the tensors below `prefix`."""
        self.attention.qkv_proj.load(loader, *(f"{prefix}.{name}" for name in names.qkv))
        self.attention.o_proj.load(loader, f"{prefix}.{names.attention_output}")
        if self.attention_norm is not None:
            self.attention_norm.load(loader, f"{prefix}.{names.attention_norm}")
        self.mlp.up_proj.load(loader, *(f"{prefix}.{name}" for name in names.up))
        self.mlp.down_proj.load(loader, f"{prefix}.{names.down}")
        self.mlp_norm.load(loader, f"{prefix}.{names.mlp_norm}")

    def forward(self, x: Tensor, batch: Packed, rotations: Sequence[Rotation]) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        if not self.is_pre_norm:
            assert self.attention_norm is not None
            x = self.attention_norm(x + self.attention(x, batch, rotations))
            output: Tensor = self.mlp_norm(x + self.mlp(x))
            return output
        normed = x if self.attention_norm is None else self.attention_norm(x)
        x = x + self.attention(normed, batch, rotations)
        output = x + self.mlp(self.mlp_norm(x))
        return output
