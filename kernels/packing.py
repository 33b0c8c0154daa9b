"""Packed matrices made of a file's blocks, for the kernels of this machine's CPU."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from kernels.cpu.native.bindings import TILE_ROWS, keep_library_in, load_library
from kernels.packed import PackedMatrix

PIECE_ROWS = TILE_ROWS


def keep_kernels_in(folder: Path) -> None:
    """Where they are compiled to, from now on; below ~/.cache otherwise."""
    keep_library_in(folder)


def has_kernels() -> bool:
    """Whether this machine has any. The first call may build them: seconds."""
    return load_library() is not None


def can_pack(kind: int, num_columns: int) -> bool:
    """Whether there are kernels for such a GGML type. The first call may build them: seconds."""
    library = load_library()
    return library is not None and library.tiles_bytes(kind, 1, num_columns) > 0


def pack(kind: int, num_rows: int, num_columns: int, pieces: Iterable[Tensor]) -> PackedMatrix:
    """A matrix, in tiles, of its rows of blocks: uint8 [rows, bytes], some at a time from the top.

    Each piece but the last has a multiple of PIECE_ROWS. Ask `can_pack` first.
    """
    library = load_library()
    assert library is not None, "can_pack said so"
    matrix = library.empty(kind, num_rows, num_columns)
    start = 0
    for blocks in pieces:
        library.repack(matrix, start, blocks)
        start += len(blocks)
    assert start == num_rows, "the pieces are the whole matrix"
    return matrix
