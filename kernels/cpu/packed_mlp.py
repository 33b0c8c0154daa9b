"""A gated MLP with packed weights on a CPU: one call of the library."""

from torch import Tensor

from kernels.cpu.native.bindings import load_library
from kernels.cpu.native.block import can_take, mlp
from kernels.packed import Projection


def is_native(x: Tensor, gate_up: Projection, down: Projection) -> bool:
    """Whether `packed_mlp` can be asked."""
    return can_take(x, gate_up, down)


def packed_mlp(x: Tensor, gate_up: Projection, down: Projection, is_gelu: bool) -> Tensor:
    """As kernels/reference/packed_mlp.py; a row's bits do not depend on the rows beside it."""
    library = load_library()
    assert library is not None
    return mlp(library, x, gate_up, down, is_gelu)
