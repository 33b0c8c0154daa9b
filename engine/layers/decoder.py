"""The frame of a decoder: embedding, pre-norm layers, final norm, logits. Knows no family."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.embedding import Embedding
from engine.layers.linear import Linear
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryEmbedding, Rotation
from engine.weights.checkpoint import Checkpoint
from engine.weights.loader import Loader
from engine.weights.progress import Progress


class DecoderLayer(nn.Module):
    """Attention, then the feed-forward block, each on the normalised sum of all before it."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        *,
        attention: Attention,
        mlp: GatedMLP,
    ) -> None:
        super().__init__()
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self.attention = attention
        self.post_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self.mlp = mlp

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the tensors below `prefix`."""
        self.input_norm.load(loader, f"{prefix}.input_layernorm")
        self.attention.load(loader, f"{prefix}.self_attn")
        self.post_attention_norm.load(loader, f"{prefix}.post_attention_layernorm")
        self.mlp.load(loader, f"{prefix}.mlp")

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        batch: Batch,
        rotation: Rotation,
        kv_cache: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Takes what the layer before added and the sum before that; gives its own two.

        All are [T, hidden]; before the first layer there is no sum.
        """
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x = self.attention(x, batch, rotation, kv_cache)
        x, residual = self.post_attention_norm.add(x, residual)
        return self.mlp(x), residual


class Decoder(nn.Module):
    """A causal language model; a family gives it its layers."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        layer: Callable[[int], DecoderLayer],
    ) -> None:
        """`layer` makes the layer of an index. The weights are empty until `load`."""
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.hidden_size, dtype, device)
        self.rotary = RotaryEmbedding(config, device)
        self._layers = [layer(index) for index in range(config.num_layers)]
        self.layers = nn.ModuleList(self._layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, device)
        self.lm_head = Linear(config.hidden_size, (config.vocab_size,), dtype, device)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embedding.weight

    def load(self, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
        """Fill the weights, tensor by tensor; `progress(done_bytes, total_bytes)` follows it.

        Raises LoadError for a tensor that is missing, has another shape or is not known.
        """
        loader = Loader(checkpoint, sum(p.nbytes for p in self.parameters()), progress)
        self.embedding.load(loader, "model.embed_tokens")
        for index, layer in enumerate(self._layers):
            layer.load(loader, f"model.layers.{index}")
        self.norm.load(loader, "model.norm")
        if not self.config.tie_word_embeddings:
            self.lm_head.load(loader, "lm_head")
        # Old checkpoints keep the rotary frequencies, some tied ones a copy of the embedding.
        spare = ("rotary_emb.inv_freq",) + ("lm_head.weight",) * self.config.tie_word_embeddings
        loader.check_unused(spare)

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """A step's tokens to their final states [T, hidden]. One (keys, values) pair per layer."""
        x: Tensor = self.embedding(batch.token_ids)
        residual: Tensor | None = None
        rotation = self.rotary(batch.positions)
        for layer, layer_cache in zip(self._layers, kv_cache, strict=True):
            x, residual = layer(x, residual, batch, rotation, layer_cache)
        assert residual is not None, "a model has at least one layer"
        return self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Final states [S', hidden] to logits [S', vocab] float32."""
        logits: Tensor = self.lm_head(hidden)
        return logits.float()
