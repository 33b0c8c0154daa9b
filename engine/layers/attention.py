"""Self-attention over the paged cache, projections included. Knows no sequences, only slots."""

import torch
from torch import Tensor, nn

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.linear import Linear
from engine.layers.norm import RMSNorm
from engine.layers.rotary import Rotation
from engine.weights.loader import Loader
from kernels import ops


class Attention(nn.Module):
    """Grouped-query attention; query, key and value are one Linear. `window` 0 sees all tokens."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, *, window: int = 0
    ) -> None:
        super().__init__()
        self.head_dim, self.window = config.head_dim, window
        self.sizes = [h * config.head_dim for h in (config.num_heads, *(config.num_kv_heads,) * 2)]
        self.qkv_proj = Linear(
            config.hidden_size, self.sizes, dtype, device, bias=config.attention_bias
        )
        self.o_proj = Linear(
            self.sizes[0], (config.hidden_size,), dtype, device, bias=config.attention_output_bias
        )
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps, dtype, device)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps, dtype, device)

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the projections, and the norms if there are, below `prefix`."""
        self.qkv_proj.load(loader, *(f"{prefix}.{part}_proj" for part in "qkv"))
        self.o_proj.load(loader, f"{prefix}.o_proj")
        if self.q_norm is not None and self.k_norm is not None:
            self.q_norm.load(loader, f"{prefix}.q_norm")
            self.k_norm.load(loader, f"{prefix}.k_norm")

    def forward(
        self, x: Tensor, batch: Batch, rotation: Rotation, kv_cache: tuple[Tensor, Tensor]
    ) -> Tensor:
        """[T, hidden] to [T, hidden]; the tokens' keys and values go into `kv_cache`."""
        parts = self.qkv_proj(x).split(self.sizes, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = ops.rotary(query, key, *rotation)
        ops.write_kv(key, value, *kv_cache, batch.slots)
        attended = ops.paged_attention(
            query,
            *kv_cache,
            batch.block_tables,
            batch.query_starts,
            batch.context_lengths,
            self.head_dim**-0.5,
            self.window,
        )
        output: Tensor = self.o_proj(attended.flatten(1))
        return output
