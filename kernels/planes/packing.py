"""Rows of blocks to planes, some rows at a time, where the planes are. Lossless."""

from collections.abc import Iterable

import torch
from torch import Tensor

from kernels.packed import PackedMatrix, Planes
from kernels.planes.blocks import Parts, take_apart
from kernels.planes.format import (
    BLOCK,
    FORMATS,
    HIGH_BITS,
    LOW_BITS,
    empty_planes,
    num_blocks,
)

_PIECE_WEIGHTS = 1 << 24  # codes as whole bytes, and words of them, lie in memory so long


def pack_planes(
    kind: int, num_rows: int, num_columns: int, pieces: Iterable[Tensor], device: torch.device
) -> PackedMatrix:
    """A matrix of its rows of blocks, uint8 [rows, bytes], some at a time from the top."""
    planes = empty_planes(kind, num_rows, num_columns, device)
    start = 0
    for rows in pieces:
        write_planes(planes, kind, start, rows)
        start += len(rows)
    assert start == num_rows, "the pieces are the whole matrix"
    data = torch.empty(0, dtype=torch.uint8, device=device)
    return PackedMatrix(kind, num_rows, num_columns, data, planes=planes)


def write_planes(planes: Planes, kind: int, first_row: int, rows: Tensor) -> None:
    """Put rows of blocks, uint8 [R, bytes], into the planes from `first_row` on."""
    columns = take_apart(kind, rows[:1]).codes.numel()
    for piece in rows.split(max(1, _PIECE_WEIGHTS // columns)):
        _write(planes, kind, first_row, piece.to(planes.low.device))
        first_row += len(piece)


def _write(planes: Planes, kind: int, first_row: int, rows: Tensor) -> None:
    format, parts = FORMATS[kind], take_apart(kind, rows)
    whole = slice(first_row, first_row + len(rows))
    codes = by_planes(parts.codes, len(rows))
    bits = LOW_BITS.get(format.codes)
    if bits is None:
        planes.low[whole] = codes.flatten(1)
    else:
        planes.low.view(torch.int16)[whole] = words_of(codes, bits)
    if format.codes in HIGH_BITS:
        high = codes >> (bits or 0)
        is_bit = HIGH_BITS[format.codes] == 1
        planes.high.view(torch.int16)[whole] = (
            _bits(high) if is_bit else words_of(high, HIGH_BITS[format.codes])
        )
    _put(planes.scales, whole, parts.scales.reshape(len(rows), -1))
    _write_supers(planes, whole, parts, len(rows))


def _write_supers(planes: Planes, whole: slice, parts: Parts, num_rows: int) -> None:
    if parts.supers is not None:
        supers = planes.supers if planes.supers.dim() == 3 else planes.supers[..., None]
        _put(supers, whole, parts.supers.reshape(num_rows, -1))
    if parts.table is not None:
        is_same = whole.start == 0 or planes.table.equal(parts.table)
        assert is_same, "a matrix has one table"
        planes.table.copy_(parts.table)


def by_planes(codes: Tensor, num_rows: int) -> Tensor:
    """Whole bytes by planes, [R, B, 8, 32], zeros where a row is filled up."""
    codes = codes.reshape(num_rows, -1)
    missing = num_blocks(codes.shape[1]) * BLOCK - codes.shape[1]
    padded: Tensor = torch.nn.functional.pad(codes, (0, missing)) if missing else codes
    return padded.view(num_rows, -1, 8, 32)


def words_of(codes: Tensor, bits: int) -> Tensor:
    """The lower `bits` of [R, B, 8, 32] as fields of words, int16 [R, B * 16 * bits]."""
    fields = 16 // bits
    sets = codes.unflatten(2, (-1, fields)).to(torch.int32) & (1 << bits) - 1
    shifts = torch.arange(0, 16, bits, dtype=torch.int32, device=codes.device)
    return _as_words((sets << shifts[:, None]).sum(3, dtype=torch.int32))


def _bits(codes: Tensor) -> Tensor:
    """A bit each of [R, B, 8, 32], int16 [R, B * 16]: word j has element j, above it j + 16."""
    shifts = torch.arange(8, dtype=torch.int32, device=codes.device)
    bits = ((codes.to(torch.int32) & 1) << shifts[:, None]).sum(2, dtype=torch.int32)
    return _as_words(bits[..., :16] | bits[..., 16:] << 8)


def _as_words(numbers: Tensor) -> Tensor:
    """The lower halves of int32 [R, ...], as int16 [R, ...]."""
    return numbers.flatten(1).to(torch.int16)


def _put(target: Tensor, whole: slice, numbers: Tensor) -> None:
    """Numbers [R, G] into [B, N, groups of a block]; a row may end within a block."""
    blocks, _, groups = target.shape
    full = numbers.shape[1] // groups
    of_full = numbers[:, : full * groups].reshape(len(numbers), full, groups)
    target[:full, whole] = of_full.transpose(0, 1)
    if full < blocks:
        rest = numbers[:, full * groups :]
        target[full, whole, : rest.shape[1]] = rest
