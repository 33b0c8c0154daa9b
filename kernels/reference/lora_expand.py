"""The second half of low-rank adapters (arXiv 2106.09685): the truth for kernels/lora_expand.py."""

import torch
from torch import Tensor


def lora_expand(
    output: Tensor, shrunk: Tensor, up: Tensor, adapters: Tensor, scales: Tensor
) -> Tensor:
    """`output[t] + scales[a] * (up[a] @ shrunk[t])`, a = adapters[t]; `output[t]` where that is -1.

    output: [T, O]; shrunk: [T, R] float32; up: [A, O, R] of output's type; adapters: [T] int32;
    scales: [A] float32. Returns [T, O] of output's type; float32 inside, rounded once.
    """
    index = adapters.clamp(min=0).long()
    change = torch.einsum("tr,tor->to", shrunk, up[index].float()) * scales[index, None]
    changed = (output.float() + change).to(output.dtype)
    return torch.where(adapters[:, None] < 0, output, changed)
