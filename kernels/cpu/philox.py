"""Rows of uniforms on a CPU: in C++ where there is a library."""

from torch import Tensor

from kernels.cpu.native.bindings import loaded_library
from kernels.reference.philox import uniform as reference_uniform


def uniform(seeds: Tensor, choices: Tensor, positions: Tensor, num: int) -> Tensor:
    """As kernels/reference/philox.py, bit for bit."""
    library = loaded_library()
    if library is None:
        return reference_uniform(seeds, choices, positions, num)
    return library.uniform(seeds, choices, positions, num)
