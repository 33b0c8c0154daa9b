"""The matrix multiplication of every projection. Knows how a weight is stored, not what for."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.weights.loader import Loader


class Linear(nn.Module):
    """`x @ weight.T + bias`. Several projections of one input are one Linear, stacked by rows."""

    def __init__(
        self,
        in_features: int,
        out_features: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        bias: bool = False,
    ) -> None:
        """`out_features` has the rows of each stacked projection."""
        super().__init__()
        self.out_features = tuple(out_features)
        rows = sum(out_features)
        self.weight = parameter((rows, in_features), dtype, device)
        self.bias = parameter((rows,), dtype, device) if bias else None

    def load(self, loader: Loader, *names: str) -> None:
        """Fill from `{name}.weight` and `{name}.bias` of one name per stacked projection.

        A single name has all of them, stacked already.
        """
        _copy_parts(loader, [f"{name}.weight" for name in names], self.weight, self.out_features)
        if self.bias is not None:
            _copy_parts(loader, [f"{name}.bias" for name in names], self.bias, self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] to [T, sum of out]."""
        return F.linear(x, self.weight, self.bias)


def parameter(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """A weight, empty until it is loaded."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def _copy_parts(loader: Loader, names: list[str], stacked: Tensor, sizes: Sequence[int]) -> None:
    parts = torch.split(stacked, list(sizes)) if len(names) > 1 else [stacked]
    for name, part in zip(names, parts, strict=True):
        loader.copy(name, part)
