"""Rows in groups by packed matrices: the truth for kernels/packed_grouped_linear.py."""

import torch
from torch import Tensor

from kernels.packed import PackedMatrix
from kernels.reference.packed_rows import packed_rows


def packed_grouped_linear(x: Tensor, weight: PackedMatrix, starts: Tensor) -> Tensor:
    """`x[r] @ W[e].T` for the rows r from `starts[e]` to before `starts[e + 1]`.

    x: [R, I]; weight: [E * O, I], the E matrices [O, I] one below the other; starts: [E + 1] int32
    from 0 to R, never falling. Returns [R, O] of x's type; float32 inside, rounded once.
    """
    num_groups = len(starts) - 1
    num_outputs = weight.num_rows // num_groups
    output = torch.empty(len(x), num_outputs, dtype=x.dtype)
    bounds = starts.tolist()
    for group in range(num_groups):
        own = slice(bounds[group], bounds[group + 1])
        rows = torch.arange(group * num_outputs, (group + 1) * num_outputs)
        output[own] = (x[own].float() @ packed_rows(weight, rows).T).to(x.dtype)
    return output
