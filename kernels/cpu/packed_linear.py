"""The product with packed weights on a CPU: in C++ for weights in tiles."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.cpu.native.bindings import load_library
from kernels.cpu.native.hqq import load_hqq
from kernels.packed import HQQ4, HQQ8, PackedMatrix
from kernels.reference.packed_linear import packed_linear as reference_packed_linear

_HQQ = (HQQ4, HQQ8)


def packed_linear(x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool = True) -> Tensor:
    """As kernels/reference/packed_linear.py; a row's bits do not depend on the rows beside it."""
    library, hqq = load_library(), load_hqq()
    if library is None or hqq is None or not any(weight.is_tiled for weight in weights):
        return reference_packed_linear(x, weights, is_exact)
    if not all(weight.is_tiled for weight in weights):
        return torch.cat([packed_linear(x, [weight], is_exact) for weight in weights], dim=1)
    if all(weight.kind not in _HQQ for weight in weights):
        return library.linear(x, weights, is_exact).to(x.dtype)
    parts = [
        hqq.linear(x, weight, is_exact)
        if weight.kind in _HQQ
        else library.linear(x, [weight], is_exact)
        for weight in weights
    ]
    return torch.cat(parts, dim=1).to(x.dtype)
