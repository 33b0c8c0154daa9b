"""A residual add and the RMSNorm after it on a CPU, as kernels/cpu/rms_norm.py has it."""

import torch
from torch import Tensor

from kernels.cpu.native.bindings import loaded_library
from kernels.reference.add_rms_norm import add_rms_norm as reference_add_rms_norm


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As kernels/reference/add_rms_norm.py, within float32 rounding."""
    library = loaded_library()
    if (
        library is None
        or x.dim() != residual.dim()
        or not x.dtype == residual.dtype == weight.dtype == torch.float32
    ):
        return reference_add_rms_norm(x, residual, weight, eps)
    return library.rms_norm(x, residual, weight, eps)
