"""RMSNorm on a CPU: in C++ where there is a library and all is float32."""

import torch
from torch import Tensor

from kernels.cpu.native.bindings import loaded_library
from kernels.reference.rms_norm import rms_norm as reference_rms_norm


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As kernels/reference/rms_norm.py, within float32 rounding."""
    library = loaded_library()
    if library is None or not x.dtype == weight.dtype == torch.float32:
        return reference_rms_norm(x, weight, eps)
    return library.rms_norm(x, None, weight, eps)[0]
