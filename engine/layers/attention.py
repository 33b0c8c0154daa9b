"""Self-attention over the paged cache, projections included. Knows no sequences, only slots."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.linear import Linear
from engine.layers.norm import make_norm
from engine.layers.rotary import Rotation, rotary_of
from engine.weights.loader import Loader
from kernels import ops


class Attention(nn.Module):
    """Grouped-query attention of one layer; query, key and value are one Linear.

    A layer with a window sees a token and the `window - 1` before it.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.window(layer)
        self.rotary = rotary_of(config, layer)
        self.scale = config.attention_scale or config.head_dim**-0.5
        self.softcap = config.attention_softcap
        self.sizes = [h * config.head_dim for h in (config.num_heads, *(config.num_kv_heads,) * 2)]
        self.qkv_proj = Linear(
            config.hidden_size, self.sizes, dtype, device, bias=config.attention_bias
        )
        self.o_proj = Linear(
            self.sizes[0], (config.hidden_size,), dtype, device, bias=config.attention_output_bias
        )
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            q_size, k_size = self.sizes[:2] if config.qk_norm == "row" else [config.head_dim] * 2
            self.q_norm = make_norm(config, dtype, device, q_size)
            self.k_norm = make_norm(config, dtype, device, k_size)
        self.norms_rows = config.qk_norm == "row"

    def load(
        self,
        loader: Loader,
        prefix: str,
        qkv: Sequence[str] = ("q_proj", "k_proj", "v_proj"),
        output: str = "o_proj",
        norms: tuple[str, str] = ("q_norm", "k_norm"),
    ) -> None:
        """Fill from the projections, and the norms if there are, below `prefix`.

        `qkv` may be the name of one tensor that has all three; where there is a `qkv_proj`, it is.
        """
        if loader.has(f"{prefix}.qkv_proj.weight"):
            qkv = ("qkv_proj",)
        self.qkv_proj.load(loader, *(f"{prefix}.{name}" for name in qkv))
        self.o_proj.load(loader, f"{prefix}.{output}")
        if self.q_norm is not None and self.k_norm is not None:
            self.q_norm.load(loader, f"{prefix}.{norms[0]}")
            self.k_norm.load(loader, f"{prefix}.{norms[1]}")

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        rotations: Sequence[Rotation],
        kv_cache: tuple[Tensor, Tensor],
    ) -> Tensor:
        """[T, hidden] to [T, hidden]; the tokens' keys and values go into `kv_cache`."""
        query, key, value = self._heads(x)
        if self.rotary is not None:
            query, key = ops.rotary(query, key, *rotations[self.rotary])
        ops.write_kv(key, value, *kv_cache, batch.slots)
        attended = ops.paged_attention(
            query,
            *kv_cache,
            batch.block_tables,
            batch.query_starts,
            batch.context_lengths,
            self.scale,
            self.window,
            self.softcap,
        )
        output: Tensor = self.o_proj(attended.flatten(1))
        return output

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query [T, Hq, D], key and value [T, Hkv, D], normalised where the model does."""
        query, key, value = self.qkv_proj(x).split(self.sizes, dim=-1)
        if self.norms_rows:
            query, key = self._normalised(query, key)
        heads = [part.unflatten(-1, (-1, self.head_dim)) for part in (query, key, value)]
        if not self.norms_rows:
            heads[:2] = self._normalised(*heads[:2])
        return heads[0], heads[1], heads[2]

    def _normalised(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if self.q_norm is None or self.k_norm is None:
            return query, key
        return self.q_norm(query), self.k_norm(key)
