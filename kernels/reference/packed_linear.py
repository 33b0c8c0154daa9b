"""The product with packed weights: the truth for kernels/cpu/packed_linear.py."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kernels.packed import PackedMatrix, Projection
from kernels.reference.packed_rows import packed_rows

_PIECE_WEIGHTS = 1 << 22


def packed_linear(x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool = True) -> Tensor:
    """`x @ W.T` for each of `weights`, side by side.

    x: [T, I]; weights: [O, I] each, in rows of blocks. Returns [T, sum of O] of x's type; float32
    inside, rounded once. Unless `is_exact`, a faster form may round x to 8 bits, in each row and 32
    columns by their largest magnitude; for weights in BF16 it may round x to bfloat16.
    """
    wide = x.float()
    parts = [wide @ rows.T for weight in weights for rows in _unpacked(weight)]
    return torch.cat(parts, dim=1).to(x.dtype)


def _unpacked(matrix: PackedMatrix) -> Iterator[Tensor]:
    """Some rows at a time: a matrix may be packed because there is no room for more."""
    step = max(1, _PIECE_WEIGHTS // matrix.num_columns)
    for rows in torch.arange(matrix.num_rows).split(step):
        yield packed_rows(matrix, rows)


def project(x: Tensor, projection: Projection) -> Tensor:
    """The product with a projection's matrices, and its bias."""
    product = packed_linear(x, projection.matrices, projection.is_exact)
    return product if projection.bias is None else product + projection.bias
