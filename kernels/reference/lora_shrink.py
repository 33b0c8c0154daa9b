"""The first half of low-rank adapters (arXiv 2106.09685): the truth for kernels/lora_shrink.py."""

import torch
from torch import Tensor


def lora_shrink(x: Tensor, down: Tensor, adapters: Tensor) -> Tensor:
    """`down[adapters[t]] @ x[t]` for each row t, zeros where its adapter is -1.

    x: [T, I]; down: [A, R, I] of x's type; adapters: [T] int32. Returns [T, R] float32.
    """
    chosen = down[adapters.clamp(min=0).long()].float()
    shrunk = torch.einsum("ti,tri->tr", x.float(), chosen)
    return torch.where(adapters[:, None] < 0, 0.0, shrunk)
