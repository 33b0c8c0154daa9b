"""Rows of a packed matrix on a CPU: in C++ for weights in tiles."""

from torch import Tensor

from kernels.cpu.native.bindings import load_library
from kernels.packed import PackedMatrix
from kernels.reference.packed_rows import packed_rows as reference_packed_rows


def packed_rows(matrix: PackedMatrix, indices: Tensor) -> Tensor:
    """As kernels/reference/packed_rows.py, to the bit."""
    library = load_library()
    if library is None or not matrix.is_tiled:
        return reference_packed_rows(matrix, indices)
    return library.rows(matrix, indices)
