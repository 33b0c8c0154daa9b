"""The product with packed weights on a CPU: in C++ for weights in tiles."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.cpu.native.bindings import load_library
from kernels.packed import PackedMatrix
from kernels.reference.packed_linear import packed_linear as reference_packed_linear


def packed_linear(x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool = True) -> Tensor:
    """As kernels/reference/packed_linear.py; a row's bits do not depend on the rows beside it."""
    library = load_library()
    if library is None or not any(weight.is_tiled for weight in weights):
        return reference_packed_linear(x, weights, is_exact)
    if all(weight.is_tiled for weight in weights):
        return library.linear(x, weights, is_exact).to(x.dtype)
    return torch.cat([packed_linear(x, [weight], is_exact) for weight in weights], dim=1)
