"""Rows of a packed matrix on a CPU: in C++ for weights in tiles."""

from torch import Tensor

from kernels.cpu.native.bindings import load_library
from kernels.cpu.native.hqq import load_hqq
from kernels.packed import HQQ4, HQQ8, PackedMatrix
from kernels.reference.packed_rows import packed_rows as reference_packed_rows


def packed_rows(matrix: PackedMatrix, indices: Tensor) -> Tensor:
    """As kernels/reference/packed_rows.py, to the bit."""
    library, hqq = load_library(), load_hqq()
    if library is None or hqq is None or not matrix.is_tiled:
        return reference_packed_rows(matrix, indices)
    return (hqq if matrix.kind in (HQQ4, HQQ8) else library).rows(matrix, indices)
