"""The gate of a SwiGLU MLP: the truth for kernels/silu_mul.py."""

import torch
from torch import Tensor


def silu_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up`, computed in float32 and rounded once (arXiv 2002.05202).

    gate_up: [T, 2I], gate in the first half of a row and up in the second. Returns [T, I].
    """
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)
