"""The gate of a GEGLU MLP with the tanh form of GELU: the truth for kernels/gelu_mul.py."""

import torch
from torch import Tensor


def gelu_mul(gate_up: Tensor) -> Tensor:
    """`gelu(gate) * up` (arXiv 2002.05202), computed in float32 and rounded once.

    GELU is its approximation by tanh (arXiv 1606.08415, section 2), as Gemma has it.
    gate_up: [T, 2I], gate in the first half of a row and up in the second. Returns [T, I].
    """
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (torch.nn.functional.gelu(gate, approximate="tanh") * up).to(gate_up.dtype)
