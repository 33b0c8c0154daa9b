"""The frame of an encoder: the sum of its embeddings, layers, final norm. Knows no head."""

from itertools import chain

import torch
from torch import Tensor, nn

from engine.encoders.batch import Packed
from engine.encoders.config import EncoderConfig
from engine.encoders.families import EmbeddingNames, family_of
from engine.encoders.layers import EncoderLayer, make_norm
from engine.layers.embedding import Embedding
from engine.layers.rotary import make_rotaries
from engine.weights.loader import Loader


class Embeddings(nn.Module):
    """The normalised sum of a token's word, its position and its type, as far as there are."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.offset = config.position_offset
        hidden = config.hidden_size
        self.words = Embedding(config.vocab_size, hidden, dtype, device)
        self.positions = self.types = None
        if config.num_positions:
            self.positions = Embedding(config.num_positions, hidden, dtype, device)
        if config.num_types:
            self.types = Embedding(config.num_types, hidden, dtype, device)
        self.norm = make_norm(config, dtype, device)

    def load(self, loader: Loader, names: EmbeddingNames) -> None:
        """Fill from the tensors of these names."""
        self.words.load(loader, names.words)
        if self.positions is not None:
            self.positions.load(loader, names.positions)
        if self.types is not None:
            self.types.load(loader, names.types)
        self.norm.load(loader, names.norm)

    def forward(self, batch: Packed) -> Tensor:
        """[T, hidden]."""
        x: Tensor = self.words(batch.token_ids)
        if self.types is not None:
            x = x + self.types(batch.type_ids)
        if self.positions is not None:
            x = x + self.positions(batch.positions + self.offset)
        output: Tensor = self.norm(x)
        return output


class Encoder(nn.Module):
    """An encoder of any family of `families.py`."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        """The weights are empty until `load`."""
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, dtype, device)
        rotaries = [] if config.num_positions else make_rotaries(config, device)
        self.rotaries = nn.ModuleList(rotaries)
        self._layers = [
            EncoderLayer(config, dtype, device, index) for index in range(config.num_layers)
        ]
        self.layers = nn.ModuleList(self._layers)
        self.family = family_of(config.architecture)
        self.norm = make_norm(config, dtype, device) if self.family.final_norm else None

    @property
    def num_bytes(self) -> int:
        """Of all weights."""
        return sum(tensor.nbytes for tensor in chain(self.parameters(), self.buffers()))

    def load(self, loader: Loader) -> None:
        """Fill from a checkpoint that has the family's names, without its prefix."""
        names = self.family.layer
        self.embeddings.load(loader, self.family.embeddings)
        for index, layer in enumerate(self._layers):
            layer.load(loader, f"{names.layers}.{index}", names)
        if self.norm is not None:
            self.norm.load(loader, self.family.final_norm)

    def forward(self, batch: Packed) -> Tensor:
        """The last state of each token [T, hidden]."""
        x: Tensor = self.embeddings(batch)
        rotations = [rotary(batch.positions) for rotary in self.rotaries]
        for layer in self._layers:
            x = layer(x, batch, rotations)
        return x if self.norm is None else self.norm(x)
