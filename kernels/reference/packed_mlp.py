"""A gated MLP with packed weights: the truth for kernels/cpu/packed_mlp.py."""

from torch import Tensor

from kernels.packed import Projection
from kernels.reference.gelu_mul import gelu_mul
from kernels.reference.packed_linear import project
from kernels.reference.silu_mul import silu_mul


def packed_mlp(x: Tensor, gate_up: Projection, down: Projection, is_gelu: bool) -> Tensor:
    """`down(act(gate(x)) * up(x))` (arXiv 2002.05202); act is SiLU, or GELU by tanh.

    x: [T, I]; gate_up gives gate and up [T, 2 J] side by side. Returns [T, O].
    """
    gate = gelu_mul if is_gelu else silu_mul
    return project(gate(project(x, gate_up)), down)
