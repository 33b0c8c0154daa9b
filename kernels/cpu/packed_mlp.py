"""A gated MLP with packed weights on a CPU: one call of the library."""

import torch
from torch import Tensor

from kernels.cpu.native.bindings import loaded_library
from kernels.cpu.native.block import is_blocked, mlp
from kernels.packed import Projection


def is_native(x: Tensor, gate_up: Projection, down: Projection) -> bool:
    """Whether `packed_mlp` can be asked: the library is there and has all of these as it wants."""
    is_float = x.dtype == torch.float32
    return is_float and loaded_library() is not None and is_blocked(gate_up, down)


def packed_mlp(x: Tensor, gate_up: Projection, down: Projection, is_gelu: bool) -> Tensor:
    """As kernels/reference/packed_mlp.py; a row's bits do not depend on the rows beside it."""
    library = loaded_library()
    assert library is not None
    return mlp(library, x, gate_up, down, is_gelu)
