"""Self-attention over the paged cache, projections included. Knows no sequences, only slots."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.linear import Linear
from engine.layers.norm import LayerNorm, make_norm
from engine.layers.rotary import Rotation, rotary_of
from engine.weights.loader import Loader
from kernels import ops
from kernels.packed import Projection

PackedHeads = tuple[Projection, tuple[Tensor, Tensor] | None, Projection]


class Attention(nn.Module):
    """Grouped-query attention of one layer; query, key and value are one Linear.

    A layer with a window sees a token and the `window - 1` before it or, in a model that looks both
    ways, the `window` on each side.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.window(layer)
        self.is_causal = config.is_causal
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
        self.eps = config.norm_eps
        # Norms that are no RMSNorm of each head are made before the rest.
        self._has_other_norms = self.norms_rows or isinstance(self.q_norm, LayerNorm)
        self._head_norms: tuple[Tensor, Tensor] | None = None
        if self.q_norm is not None and self.k_norm is not None and not self._has_other_norms:
            self._head_norms = (self.q_norm.weight, self.k_norm.weight)

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

    def packed_parts(self) -> PackedHeads | None:
        """Projections and the norms between, where weights are packed and one call takes all."""
        qkv, output = self.qkv_proj.projection(), self.o_proj.projection()
        if qkv is None or output is None or self._has_other_norms or not self.is_causal:
            return None
        return qkv, self._head_norms, output

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        rotations: Sequence[Rotation],
        kv_cache: tuple[Tensor, Tensor],
    ) -> Tensor:
        """[T, hidden] to [T, hidden]; the tokens' keys and values go into `kv_cache`.

        Where tokens see those behind them, sequences are whole and there is no cache.
        """
        if not self.is_causal:
            return self._look_both_ways(x, batch, rotations)
        way = (
            *(self._head_norms, self.eps),
            None if self.rotary is None else rotations[self.rotary],
            *kv_cache,
            *(batch.slots, batch.block_tables, batch.query_starts, batch.context_lengths),
            *(self.scale, self.window, self.softcap),
        )
        packed = self.packed_parts()
        if packed is not None:
            return ops.packed_attention(x, packed[0], packed[2], *way)
        attended: Tensor = self.o_proj(ops.cached_attention(self._projections(x), *way))
        return attended

    def _look_both_ways(self, x: Tensor, batch: Batch, rotations: Sequence[Rotation]) -> Tensor:
        heads = self._projections(x).view(len(x), -1, self.head_dim)
        counts = [size // self.head_dim for size in self.sizes]
        query, key, value = torch.split(heads, counts, dim=1)
        if self._head_norms is not None:
            query, key = (
                ops.rms_norm(part, weight, self.eps)
                for part, weight in zip((query, key), self._head_norms, strict=True)
            )
        if self.rotary is not None:
            query, key = ops.rotary(query, key, *rotations[self.rotary])
        starts = batch.query_starts
        attended = ops.varlen_attention(query, key, value, starts, self.scale, self.window)
        output: Tensor = self.o_proj(attended.flatten(1))
        return output

    def _projections(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side; normalised where the norm is not each head's."""
        qkv: Tensor = self.qkv_proj(x)
        if self.q_norm is not None and self.k_norm is not None and self._has_other_norms:
            query, key, _ = torch.split(qkv, self.sizes, dim=-1)
            if not self.norms_rows:
                query, key = (part.view(len(x), -1, self.head_dim) for part in (query, key))
            query.copy_(self.q_norm(query))
            key.copy_(self.k_norm(key))
        return qkv
