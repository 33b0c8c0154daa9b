"""The product with packed weights: the truth for kernels/cpu/packed_linear.py."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.packed import PackedMatrix, Projection
from kernels.reference.packed_rows import packed_rows


def packed_linear(x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool = True) -> Tensor:
    """`x @ W.T` for each of `weights`, side by side.

    x: [T, I]; weights: [O, I] each, in rows of blocks. Returns [T, sum of O] of x's type; float32
    inside, rounded once. Unless `is_exact`, a faster form may round x to 8 bits, in each row and 32
    columns by their largest magnitude.
    """
    every = [packed_rows(weight, torch.arange(weight.num_rows)) for weight in weights]
    return (x.float() @ torch.cat(every).T).to(x.dtype)


def project(x: Tensor, projection: Projection) -> Tensor:
    """The product with a projection's matrices, and its bias."""
    product = packed_linear(x, projection.matrices, projection.is_exact)
    return product if projection.bias is None else product + projection.bias
