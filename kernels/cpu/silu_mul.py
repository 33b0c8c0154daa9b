"""The gate of a SwiGLU MLP on a CPU: in C++ where there is a library and all is float32.

Otherwise half-size types are widened in pieces that a cache holds.
"""

import torch
from torch import Tensor

from kernels.cpu.native.bindings import loaded_library
from kernels.reference.silu_mul import silu_mul as reference_silu_mul

_PIECE = 1 << 18  # elements widened at a time: a whole prefill's would be fresh pages every time


def silu_mul(gate_up: Tensor) -> Tensor:
    """As kernels/reference/silu_mul.py, within float32 rounding."""
    if gate_up.dtype == torch.float32:
        library = loaded_library()
        return library.gate(gate_up, False) if library else reference_silu_mul(gate_up)
    num_rows, width = gate_up.shape
    rows = max(1, _PIECE // max(1, width))
    output = gate_up.new_empty(num_rows, width // 2)
    for start in range(0, num_rows, rows):
        piece = slice(start, start + rows)
        output[piece] = reference_silu_mul(gate_up[piece])
    return output
