"""Packed matrices made of rows of blocks, for the kernels of a machine's CPU or GPU."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kernels.cpu.native.bindings import TILE_ROWS, keep_library_in, load_library
from kernels.cpu.native.hqq import load_hqq
from kernels.packed import HQQ4, HQQ8, PackedMatrix
from kernels.planes.format import empty_planes, format_of, planes_bytes
from kernels.planes.hqq import empty_hqq_planes, pack_hqq_planes
from kernels.planes.packing import pack_planes
from kernels.recoding import recoding

PIECE_ROWS = TILE_ROWS


def keep_kernels_in(folder: Path) -> None:
    """Where they are compiled to, from now on; below ~/.cache otherwise."""
    keep_library_in(folder)


def has_kernels() -> bool:
    """Whether this machine has any. The first call may build them: seconds."""
    return load_library() is not None


def can_pack(kind: int, num_columns: int) -> bool:
    """Whether there are kernels for such a kind (packed.py), or one it is rewritten into for them.

    The first call may build them: seconds.
    """
    library = load_library()
    return library is not None and library.tiles_bytes(_kind_in_memory(kind), 1, num_columns) > 0


def pack(kind: int, num_rows: int, num_columns: int, pieces: Iterable[Tensor]) -> PackedMatrix:
    """A matrix of its rows of blocks: uint8 [rows, bytes], some at a time from the top.

    In tiles where `can_pack` says so, and each piece but the last then has a multiple of
    PIECE_ROWS; elsewhere as it is. The matrix in tiles is of another kind where the one given has
    no kernels of its own. An HQQ matrix is in one piece, its parts (hqq_parts.py).
    """
    if kind in (HQQ4, HQQ8):
        (data,) = pieces
        return pack_hqq(PackedMatrix(kind, num_rows, num_columns, data))
    if not can_pack(kind, num_columns):
        return _in_rows(kind, num_rows, num_columns, pieces)
    library = load_library()
    assert library is not None, "can_pack said so"
    matrix = library.empty(_kind_in_memory(kind), num_rows, num_columns)
    start = 0
    for blocks in map(partial(_rewritten, kind), pieces):
        library.repack(matrix, start, blocks)
        start += len(blocks)
    assert start == num_rows, "the pieces are the whole matrix"
    return matrix


def has_planes(kind: int) -> bool:
    """Whether a GPU has kernels for such a kind, or for one it is rewritten into."""
    return kind in (HQQ4, HQQ8) or format_of(_kind_in_memory(kind)) is not None


def bytes_in_planes(kind: int, num_rows: int, num_columns: int) -> int:
    """What a matrix takes on a GPU. Ask `has_planes` first."""
    nowhere = torch.device("meta")
    if kind in (HQQ4, HQQ8):
        return planes_bytes(empty_hqq_planes(kind, num_rows, num_columns, nowhere))
    return planes_bytes(empty_planes(_kind_in_memory(kind), num_rows, num_columns, nowhere))


def pack_in_planes(
    kind: int, num_rows: int, num_columns: int, pieces: Iterable[Tensor], device: torch.device
) -> PackedMatrix:
    """As `pack`, on a GPU, where `has_planes` says so; pieces may have any number of rows."""
    if kind in (HQQ4, HQQ8):
        return pack_hqq_planes(kind, num_rows, num_columns, pieces, device)
    return pack_planes(
        _kind_in_memory(kind), num_rows, num_columns, map(partial(_rewritten, kind), pieces), device
    )


def _rewritten(kind: int, blocks: Tensor) -> Tensor:
    rewrite = recoding(kind)
    if rewrite is None:
        return blocks
    return torch.from_numpy(rewrite.rows(blocks.numpy(), torch.get_num_threads()))


def _in_rows(kind: int, num_rows: int, num_columns: int, pieces: Iterable[Tensor]) -> PackedMatrix:
    data: Tensor | None = None
    start = 0
    for blocks in pieces:
        if data is None:
            data = torch.empty(num_rows, blocks.shape[1], dtype=torch.uint8)
        data[start : start + len(blocks)] = blocks
        start += len(blocks)
    assert data is not None, "a matrix has rows"
    assert start == num_rows, "the pieces are the whole matrix"
    return PackedMatrix(kind, num_rows, num_columns, data)


def _kind_in_memory(kind: int) -> int:
    rewrite = recoding(kind)
    return kind if rewrite is None else rewrite.kind


def pack_hqq(matrix: PackedMatrix) -> PackedMatrix:
    """An HQQ matrix in tiles where there is a library, and as it is where there is none."""
    library = load_hqq()
    return matrix if library is None else library.tiled(matrix)
