"""The C++ library from Python: weights into tiles, products and rows of them. Knows no model."""

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kernels.cpu.native.build import BuildError, build
from kernels.packed import PackedMatrix

log = logging.getLogger(__name__)

TILE_ROWS = 16
MAX_WEIGHTS = 16  # of one product
_ALIGNMENT = 64


class _Weight(ctypes.Structure):
    _fields_ = (("tiles", ctypes.c_void_p), ("type", ctypes.c_long), ("rows", ctypes.c_long))


class Library:
    """The functions of one build. `path` says which instructions it uses."""

    def __init__(self, file: Path) -> None:
        """Raises OSError if the file is no library for this machine.

        It takes libgomp.so.1, which torch has loaded already: there is one pool of threads.
        """
        self.functions = self._lib = lib = ctypes.CDLL(str(file))
        pointer, number, whole = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
        lib.tr_path.restype = ctypes.c_char_p
        lib.tr_tiles_bytes.restype = whole
        lib.tr_tiles_bytes.argtypes = (number, whole, whole)
        lib.tr_repack.restype = lib.tr_rows.restype = lib.tr_linear.restype = None
        lib.tr_repack.argtypes = (number, pointer, whole, whole, number, pointer)
        lib.tr_rows.argtypes = (pointer, whole, pointer, whole, pointer)
        lib.tr_linear.argtypes = (pointer, number, pointer, whole, whole, number, number, pointer)
        real = ctypes.c_float
        lib.tr_decode.restype = lib.tr_rms_norm.restype = None
        lib.tr_decode.argtypes = (
            *(pointer,) * 4,
            *(whole,) * 5,
            *(real, real, pointer, whole, number, pointer),
        )
        lib.tr_rms_norm.argtypes = (*(pointer,) * 3, real, whole, whole, number, pointer, pointer)
        self.path: str = lib.tr_path().decode()

    def tiles_bytes(self, kind: int, num_rows: int, num_columns: int) -> int:
        """What the tiles of such a matrix take; 0 if the library has no such GGML type."""
        return int(self._lib.tr_tiles_bytes(kind, num_rows, num_columns))

    def empty(self, kind: int, num_rows: int, num_columns: int) -> PackedMatrix:
        """A matrix whose tiles are still to be written by `repack`."""
        num_bytes = self.tiles_bytes(kind, num_rows, num_columns)
        memory = torch.empty(num_bytes + _ALIGNMENT, dtype=torch.uint8)
        offset = -memory.data_ptr() % _ALIGNMENT
        tiles = memory[offset : offset + num_bytes]
        return PackedMatrix(kind, num_rows, num_columns, tiles, is_tiled=True)

    def repack(self, matrix: PackedMatrix, first_row: int, blocks: Tensor) -> None:
        """Write the tiles of some rows, given as the file has them: uint8 [rows, bytes].

        `first_row` is a multiple of TILE_ROWS, and so are the rows unless they are the last.
        """
        before = self.tiles_bytes(matrix.kind, first_row, matrix.num_columns)
        columns, threads = matrix.num_columns, torch.get_num_threads()
        target = matrix.data.data_ptr() + before
        self._lib.tr_repack(matrix.kind, blocks.data_ptr(), len(blocks), columns, threads, target)

    def rows(self, matrix: PackedMatrix, indices: Tensor) -> Tensor:
        """Rows of a tiled matrix [N, columns] float32; indices [N] int64, which must be valid."""
        indices = indices.contiguous()
        output = torch.empty(len(indices), matrix.num_columns)
        self._lib.tr_rows(
            ctypes.byref(_weight(matrix)),
            matrix.num_columns,
            indices.data_ptr(),
            len(indices),
            output.data_ptr(),
        )
        return output

    def linear(self, x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool) -> Tensor:
        """x [T, I] times tiled matrices [O, I], side by side: [T, sum of O] float32."""
        x = x.float().contiguous()
        num_rows, num_columns = x.shape
        output = torch.empty(num_rows, sum(weight.num_rows for weight in weights))
        self._lib.tr_linear(
            (_Weight * len(weights))(*map(_weight, weights)),
            len(weights),
            x.data_ptr(),
            num_rows,
            num_columns,
            is_exact,
            torch.get_num_threads(),
            output.data_ptr(),
        )
        return output

    def decode(
        self,
        query: Tensor,
        caches: tuple[Tensor, Tensor],
        block_tables: Tensor,
        decodes: Tensor,
        scale: float,
        softcap: float,
        output: Tensor,
    ) -> None:
        """Attention of single rows, written to `output`; all float32 and contiguous.

        query, output: [T, Hq, D], D a multiple of 16; caches: [N, B, Hkv, D] each; block_tables:
        [S, M] int32; decodes: [n, 4] int64, a sequence, its row, and the first and the last token
        that it sees.
        """
        _, block_size, num_kv_heads, head_dim = caches[0].shape
        self._lib.tr_decode(
            query.data_ptr(),
            *(cache.data_ptr() for cache in caches),
            block_tables.data_ptr(),
            block_tables.shape[1],
            *(block_size, num_kv_heads, query.shape[1], head_dim),
            *(scale, softcap),
            decodes.data_ptr(),
            len(decodes),
            torch.get_num_threads(),
            output.data_ptr(),
        )

    def rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """`h = x + residual`, or x itself without one; (RMSNorm of h, h). All float32."""
        x = x.contiguous()
        output, hidden = torch.empty_like(x), x
        residual_pointer = None
        if residual is not None:
            residual, hidden = residual.contiguous(), torch.empty_like(x)
            residual_pointer = residual.data_ptr()
        size = x.shape[-1]
        self._lib.tr_rms_norm(
            *(x.data_ptr(), residual_pointer, weight.data_ptr(), eps),
            *(x.numel() // size, size, torch.get_num_threads()),
            *(hidden.data_ptr(), output.data_ptr()),
        )
        return output, hidden


def _weight(matrix: PackedMatrix) -> _Weight:
    return _Weight(matrix.data.data_ptr(), matrix.kind, matrix.num_rows)


@cache
def load_library() -> Library | None:
    """The library, built if need be; None, with a warning, where that cannot be."""
    try:
        library = Library(build(Path.home() / ".cache" / "tramontane" / "kernels"))
    except (BuildError, OSError, RuntimeError) as error:
        log.warning(
            "packed weights are unpacked, a file's as they are loaded and those that stay packed "
            "for each product, for there are no CPU kernels: %s; "
            "install g++ for a model that is smaller and faster",
            error,
        )
        return None
    log.info("CPU kernels for packed weights: %s", library.path)
    return library


def loaded_library() -> Library | None:
    """The library if packed weights have asked for it: nothing else is worth a build."""
    return load_library() if load_library.cache_info().currsize else None
