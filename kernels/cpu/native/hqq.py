"""The functions of the C++ library for HQQ matrices: into tiles, products and rows of them."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from kernels.cpu.native.bindings import Library, load_library
from kernels.hqq_parts import BITS
from kernels.packed import PackedMatrix

_ALIGNMENT = 64


class HqqLibrary:
    """What one build of the library does with HQQ."""

    def __init__(self, library: Library) -> None:
        self._lib = lib = library.functions
        pointer, number, whole = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
        lib.tr_hqq_bytes.restype = whole
        lib.tr_hqq_bytes.argtypes = (number, whole, whole)
        lib.tr_hqq_repack.restype = lib.tr_hqq_rows.restype = lib.tr_hqq_linear.restype = None
        lib.tr_hqq_repack.argtypes = (number, pointer, whole, whole, number, pointer)
        lib.tr_hqq_rows.argtypes = (number, pointer, whole, whole, pointer, whole, pointer)
        lib.tr_hqq_linear.argtypes = (
            *(number, pointer, whole, pointer, whole, whole),
            *(number, number, pointer),
        )

    def tiled(self, matrix: PackedMatrix) -> PackedMatrix:
        """The same matrix in tiles."""
        shape = BITS[matrix.kind], matrix.num_rows, matrix.num_columns
        num_bytes = int(self._lib.tr_hqq_bytes(*shape))
        assert num_bytes, "can_hold said so"
        memory = torch.empty(num_bytes + _ALIGNMENT, dtype=torch.uint8)
        offset = -memory.data_ptr() % _ALIGNMENT
        tiles = memory[offset : offset + num_bytes]
        data = matrix.data.contiguous()
        bits, rows, columns = shape
        threads = torch.get_num_threads()
        self._lib.tr_hqq_repack(bits, data.data_ptr(), rows, columns, threads, tiles.data_ptr())
        return matrix._replace(data=tiles, is_tiled=True)

    def rows(self, matrix: PackedMatrix, indices: Tensor) -> Tensor:
        """Rows of a tiled matrix [N, columns] float32; indices [N] int64, which must be valid."""
        indices = indices.contiguous()
        output = torch.empty(len(indices), matrix.num_columns)
        self._lib.tr_hqq_rows(
            *(BITS[matrix.kind], matrix.data.data_ptr(), matrix.num_rows, matrix.num_columns),
            *(indices.data_ptr(), len(indices), output.data_ptr()),
        )
        return output

    def linear(self, x: Tensor, weight: PackedMatrix, is_exact: bool) -> Tensor:
        """x [T, I] times a tiled matrix [O, I]: [T, O] float32."""
        x = x.float().contiguous()
        output = torch.empty(len(x), weight.num_rows)
        self._lib.tr_hqq_linear(
            *(BITS[weight.kind], weight.data.data_ptr(), weight.num_rows),
            *(x.data_ptr(), *x.shape, is_exact, torch.get_num_threads()),
            output.data_ptr(),
        )
        return output


@cache
def load_hqq() -> HqqLibrary | None:
    """Of the library that `load_library` gives, None where there is none."""
    library = load_library()
    return None if library is None else HqqLibrary(library)
