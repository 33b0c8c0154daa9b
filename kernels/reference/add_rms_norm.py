"""A residual add and the RMSNorm after it: the truth for kernels/add_rms_norm.py."""

from torch import Tensor

from kernels.reference.rms_norm import rms_norm


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`h = x + residual`; returns `(rms_norm(h, weight, eps), h)`, neither in place.

    x, residual: [T, D], one type; weight: [D]. `h` is rounded to that type before it is normed.
    x may be a product in parts, [P, T, D] float32: their sum, in order and rounded, is meant.
    """
    hidden = (x if x.dim() == residual.dim() else summed(x).to(residual.dtype)) + residual
    return rms_norm(hidden, weight, eps), hidden


def summed(parts: Tensor) -> Tensor:
    """The sum of [P, T, D] over P, from the first on."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
