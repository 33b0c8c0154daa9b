"""The gate of a GEGLU MLP on a CPU: in C++ where there is a library and all is float32."""

import torch
from torch import Tensor

from kernels.cpu.native.bindings import loaded_library
from kernels.reference.gelu_mul import gelu_mul as reference_gelu_mul


def gelu_mul(gate_up: Tensor) -> Tensor:
    """As kernels/reference/gelu_mul.py, within float32 rounding."""
    library = loaded_library()
    if library is None or gate_up.dtype != torch.float32:
        return reference_gelu_mul(gate_up)
    return library.gate(gate_up, True)
