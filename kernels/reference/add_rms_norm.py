"""A residual add and the RMSNorm after it: the truth for kernels/add_rms_norm.py."""

from torch import Tensor

from kernels.reference.rms_norm import rms_norm


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`h = x + residual`; returns `(rms_norm(h, weight, eps), h)`, neither in place.

    x, residual: [T, D], one type; weight: [D]. `h` is rounded to that type before it is normed.
    """
    hidden = x + residual
    return rms_norm(hidden, weight, eps), hidden
