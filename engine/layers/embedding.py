"""Token ids to vectors. Knows nothing of what follows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.linear import parameter
from engine.weights.loader import Loader


class Embedding(nn.Module):
    """A row per token id."""

    def __init__(
        self, vocab_size: int, hidden_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = parameter((vocab_size, hidden_size), dtype, device)

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight`."""
        loader.copy(f"{name}.weight", self.weight)

    def forward(self, token_ids: Tensor) -> Tensor:
        """[T] int64 to [T, hidden]."""
        return F.embedding(token_ids, self.weight)
