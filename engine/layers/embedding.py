"""Token ids to vectors. Knows nothing of what follows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.linear import empty_like, parameter
from engine.weights.loader import Loader
from kernels import ops
from kernels.packed import PackedMatrix


class Embedding(nn.Module):
    """A row per token id. What a file has in blocks stays so, on a CPU F16 or BF16 too."""

    packed: PackedMatrix | None = None

    def __init__(
        self, vocab_size: int, hidden_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = parameter((vocab_size, hidden_size), dtype, device)

    def load(self, loader: Loader, name: str) -> None:
        """Fill from `{name}.weight`."""
        if packed := loader.packed([f"{name}.weight"], [self.weight]):
            (self.packed,) = packed
            self.weight = empty_like(self.weight)
        else:
            loader.copy(f"{name}.weight", self.weight)

    def forward(self, token_ids: Tensor) -> Tensor:
        """[T] int64 to [T, hidden]."""
        if self.packed is not None:
            return ops.packed_rows(self.packed, token_ids).to(self.weight.dtype)
        return F.embedding(token_ids, self.weight)
