"""Mixtral, Mistral's shape with experts in every layer."""

from collections.abc import Sequence

import torch

from engine.config import ModelConfig
from engine.layers.decoder import Decoder, DecoderLayer
from engine.layers.experts import Experts
from engine.weights.loader import Loader


class MixtralExperts(Experts):
    """Experts that most files name as Mistral's own code did, and newer ones as all others."""

    def load(self, loader: Loader, prefix: str, names: Sequence[str] = ("w1", "w3", "w2")) -> None:
        """Fill from `{prefix}` or, where that has no router, from `block_sparse_moe` beside it."""
        if loader.has(f"{prefix}.gate.weight"):
            super().load(loader, prefix)
        else:
            super().load(loader, f"{prefix.removesuffix('mlp')}block_sparse_moe", names)


class MixtralLayer(DecoderLayer):
    """Experts in place of the MLP."""

    def make_mlp(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, _layer: int
    ) -> MixtralExperts:
        """The layer's experts."""
        return MixtralExperts(config, dtype, device)


class MixtralForCausalLM(Decoder):
    """The window, if there is one, is every layer's."""

    layer_class = MixtralLayer
