"""Rows in groups, each group times a matrix of its own: the truth for kernels/grouped_linear.py."""

import torch
from torch import Tensor


def grouped_linear(x: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    """`x[r] @ weight[e].T` for the rows r from `starts[e]` to before `starts[e + 1]`.

    x: [R, I]; weight: [E, O, I], of the same type; starts: [E + 1] int32 from 0 to R, never
    falling. Returns [R, O] of that type; float32 inside, rounded once.
    """
    rows = torch.arange(len(x), dtype=starts.dtype, device=x.device)
    group = torch.searchsorted(starts, rows, right=True) - 1
    return torch.einsum("ri,roi->ro", x.float(), weight[group].float()).to(x.dtype)
