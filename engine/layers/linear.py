"""The matrix multiplication of every projection. Knows how a weight is stored, not what for."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.weights.loader import Loader
from kernels import ops
from kernels.packed import PackedMatrix, Projection


class Linear(nn.Module):
    """`x @ weight.T + bias`. Several projections of one input are one Linear, stacked by rows.

    Weights that a file has in blocks stay so, each projection in its type; on a CPU F16 and BF16 do
    too. `weight` is empty then.
    """

    packed: tuple[PackedMatrix, ...] = ()
    is_exact = True  # products with packed weights are made with the input as it is
    _projection: Projection | None = None

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
        weights = [f"{name}.weight" for name in names]
        targets = _parts(names, self.weight, self.out_features)
        if packed := loader.packed(weights, targets):
            self.packed, self.is_exact = packed, loader.is_exact
            self.weight = empty_like(self.weight)
        else:
            _copy(loader, weights, targets)
        if self.bias is not None:
            biases = [f"{name}.bias" for name in names]
            _copy(loader, biases, _parts(names, self.bias, self.out_features))

    def projection(self) -> Projection | None:
        """What a kernel takes that makes more than one product; None unless weights are packed."""
        known, bias, is_exact = self._projection, self.bias, self.is_exact
        if known is not None and known.holds(self.packed, bias, is_exact):
            return known
        self._projection = Projection(self.packed, bias, is_exact) if self.packed else None
        return self._projection

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] to [T, sum of out]."""
        if self.packed:
            output = ops.packed_linear(x, self.packed, self.is_exact)
            return output if self.bias is None else output.add_(self.bias)
        return F.linear(x, self.weight, self.bias)


def parameter(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """A weight, empty until it is loaded."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def empty_like(weight: nn.Parameter) -> nn.Parameter:
    """In the place of a weight that is kept elsewhere: no rows."""
    return parameter((0, *weight.shape[1:]), weight.dtype, weight.device)


def _parts(names: Sequence[str], stacked: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """What each of `names` fills: a single one has all rows."""
    return torch.split(stacked, list(sizes)) if len(names) > 1 else [stacked]


def _copy(loader: Loader, names: Sequence[str], parts: Sequence[Tensor]) -> None:
    for name, part in zip(names, parts, strict=True):
        loader.copy(name, part)
