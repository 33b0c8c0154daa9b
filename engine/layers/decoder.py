"""The frame of a decoder: embedding, layers, final norm, logits. Knows no family."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from engine.batch import Batch
from engine.config import ModelConfig
from engine.layers.attention import Attention
from engine.layers.embedding import Embedding
from engine.layers.linear import Linear
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm, make_norm
from engine.layers.rotary import Rotation, make_rotaries
from engine.weights.checkpoint import Checkpoint
from engine.weights.isq import Isq
from engine.weights.loader import Loader
from engine.weights.progress import Progress
from kernels import ops
from kernels.packed import PackedLayer, PackedStack

logger = logging.getLogger(__name__)


class Layer(nn.Module):
    """One layer of a decoder."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        """The layer of an index."""
        super().__init__()

    @abstractmethod
    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the tensors below `prefix`."""

    def packed_parts(self) -> PackedLayer | None:
        """What `ops.packed_layers` needs to compute the same; None: it cannot."""
        return None

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        batch: Batch,
        rotations: Sequence[Rotation],
        kv_cache: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Takes what the layer before added and the sum before that; gives its own two.

        All are [T, hidden]; before the first layer there is no sum.
        """


class FeedForward(Protocol):
    """The part of a layer that sees one token at a time."""

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the tensors below `prefix`."""

    def __call__(self, x: Tensor) -> Tensor:
        """[T, hidden] to [T, hidden]."""


class DecoderLayer(Layer):
    """Attention, then the feed-forward block, each on the normalised sum of all before it."""

    feed_forward = "mlp"  # its name in a checkpoint

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, layer: int
    ) -> None:
        super().__init__(config, dtype, device, layer)
        self.input_norm = make_norm(config, dtype, device)
        self.attention = Attention(config, dtype, device, layer)
        self.post_attention_norm = make_norm(config, dtype, device)
        self.mlp = self.make_mlp(config, dtype, device, layer)

    def make_mlp(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, _layer: int
    ) -> FeedForward:
        """The layer's feed-forward block, an nn.Module."""
        return GatedMLP(config, dtype, device)

    def load(self, loader: Loader, prefix: str) -> None:
        """Fill from the tensors below `prefix`."""
        self.input_norm.load(loader, f"{prefix}.input_layernorm")
        self.attention.load(loader, f"{prefix}.self_attn")
        self.post_attention_norm.load(loader, f"{prefix}.post_attention_layernorm")
        self.mlp.load(loader, f"{prefix}.{self.feed_forward}")

    def packed_parts(self) -> PackedLayer | None:
        """As `Layer` has it; a layer of another order has another `forward`."""
        norms = (self.input_norm, self.post_attention_norm)
        heads = self.attention.packed_parts()
        both = self.mlp.packed_parts() if isinstance(self.mlp, GatedMLP) else None
        is_other = type(self).forward is not DecoderLayer.forward
        if heads is None or both is None or is_other:
            return None
        if not (isinstance(norms[0], RMSNorm) and isinstance(norms[1], RMSNorm)):
            return None
        return PackedLayer(
            *(norms[0].weight, *heads, norms[1].weight, *both),
            eps=self.attention.eps,
            rotation=self.attention.rotary,
            scale=self.attention.scale,
            window=self.attention.window,
            softcap=self.attention.softcap,
        )

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        batch: Batch,
        rotations: Sequence[Rotation],
        kv_cache: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """As `Layer` has it."""
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x = self.attention(x, batch, rotations, kv_cache)
        x, residual = self.post_attention_norm.add(x, residual)
        return self.mlp(x), residual


class Decoder(nn.Module):
    """A causal language model. A family with other layers or names overrides what differs."""

    layer_class: type[Layer] = DecoderLayer
    final_norm = "model.norm"  # its name in a checkpoint
    _stack: PackedStack | None = None  # all layers, where one call can compute them

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """The weights are empty until `load`."""
        super().__init__()
        self.config = config
        hidden, vocab = config.hidden_size, config.vocab_size
        self.embedding = Embedding(vocab, hidden, dtype, device)
        self.rotaries = nn.ModuleList(make_rotaries(config, device))
        self._layers = [
            self.layer_class(config, dtype, device, index) for index in range(config.num_layers)
        ]
        self.layers = nn.ModuleList(self._layers)
        self.norm = make_norm(config, dtype, device)
        self.lm_head = Linear(hidden, (vocab,), dtype, device, bias=config.lm_head_bias)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embedding.weight

    def part_of(self, checkpoint: Checkpoint) -> Checkpoint:
        """The tensors that are this model's, under the names that they have in it."""
        return checkpoint

    def load(
        self,
        checkpoint: Checkpoint,
        progress: Progress | None = None,
        *,
        is_exact: bool = True,
        isq: Isq | None = None,
    ) -> None:
        """Fill the weights, tensor by tensor; `progress(done_bytes, total_bytes)` follows it.

        Unless `is_exact`, products with weights that stay packed round their input to 8 bits, or
        to bfloat16 for weights in BF16. `isq` quantises as it loads. Raises LoadError for a tensor
        that is missing, has another shape or is not known.
        """
        checkpoint = self.part_of(checkpoint)
        if isq is not None:
            checkpoint = isq.apply(checkpoint)
        total_bytes = sum(parameter.nbytes for parameter in self.parameters())
        loader = Loader(checkpoint, total_bytes, progress, is_exact=is_exact)
        self.embedding.load(loader, "model.embed_tokens")
        for index, layer in enumerate(self._layers):
            layer.load(loader, f"model.layers.{index}")
        self.norm.load(loader, self.final_norm)
        self._load_head(loader)
        # Old checkpoints keep the rotary frequencies, some tied ones a copy of the embedding.
        spare = ("rotary_emb.inv_freq",) + ("lm_head.weight",) * self.config.tie_word_embeddings
        loader.check_unused(spare)
        logger.info("weights: %s", loader.contents)
        packed = [layer.packed_parts() for layer in self._layers]
        known = [layer for layer in packed if layer is not None]
        self._stack = PackedStack(known) if known and len(known) == len(packed) else None

    def keep_layers_apart(self) -> None:
        """Never compute several layers in one call: something is done between their parts."""
        self._stack = None

    @property
    def is_rounded(self) -> bool:
        """Whether products round their inputs, where there are kernels that do."""
        linears = (module for module in self.modules() if isinstance(module, Linear))
        return any(linear.packed and not linear.is_exact for linear in linears)

    def _load_head(self, loader: Loader) -> None:
        if not self.config.tie_word_embeddings:
            self.lm_head.load(loader, "lm_head")
            return
        if self.embedding.packed is not None:
            self.lm_head.packed, self.lm_head.is_exact = (self.embedding.packed,), loader.is_exact
            self.lm_head.weight = self.embedding.weight
        if self.lm_head.bias is not None:
            loader.copy("lm_head.bias", self.lm_head.bias)

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """A step's tokens to their final states [T, hidden]. One (keys, values) pair per layer."""
        x: Tensor = self.embedding(batch.token_ids)
        if self.config.embedding_scale != 1.0:
            # The scale is rounded to the model's type, as transformers does.
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)
        rotations = [rotary(batch.positions, batch.rope_sets) for rotary in self.rotaries]
        if self._stack is not None:
            way = (batch.slots, batch.block_tables, batch.query_starts, batch.context_lengths)
            return self.norm.add(*ops.packed_layers(x, self._stack, rotations, kv_cache, *way))[0]
        residual: Tensor | None = None
        for layer, layer_cache in zip(self._layers, kv_cache, strict=True):
            x, residual = layer(x, residual, batch, rotations, layer_cache)
        assert residual is not None, "a model has at least one layer"
        return self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Final states [S', hidden] to logits [S', vocab] float32."""
        logits: Tensor = self.lm_head(hidden).float()
        if cap := self.config.logit_softcap:
            logits = logits.div_(cap).tanh_().mul_(cap)
        return logits
