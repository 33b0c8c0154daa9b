"""The product with packed weights: the truth for kernels/cpu/packed_linear.py."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.packed import PackedMatrix
from kernels.reference.packed_rows import packed_rows


def packed_linear(x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool = True) -> Tensor:
    """`x @ W.T` for each of `weights`, side by side.

    x: [T, I]; weights: [O, I] each, in rows of blocks. Returns [T, sum of O] of x's type; float32
    inside, rounded once. Unless `is_exact`, a faster form may round x to 8 bits, in each row and 32
    columns by their largest magnitude; for weights in BF16 it may round x to bfloat16.
    """
    every = [packed_rows(weight, torch.arange(weight.num_rows)) for weight in weights]
    return (x.float() @ torch.cat(every).T).to(x.dtype)
