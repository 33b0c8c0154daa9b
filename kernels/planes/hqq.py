"""HQQ matrices (hqq_parts.py) on a GPU: their planes, and how their bytes become them. Lossless.

Rows lie part by part, so that the 64 that share scales are a tile of the kernels. Codes are as in
planes/format.py; scales and zeros are float32 by part and column, zeros where a row is filled up.
No Triton here: plain data.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.hqq_parts import BITS, PART_ROWS
from kernels.packed import HQQ4, HQQ8, PackedMatrix, Planes
from kernels.planes.format import BLOCK, num_blocks
from kernels.planes.packing import by_planes, words_of

_PIECE_WEIGHTS = 1 << 24  # codes as whole bytes lie in memory so long


class HqqFormat(NamedTuple):
    """A weight is `(value - bias - zero) * scale`; `codes` as in planes/format.py."""

    codes: str
    bias: int


FORMATS = {HQQ4: HqqFormat("bits4", 0), HQQ8: HqqFormat("int8", -128)}


def empty_hqq_planes(kind: int, num_rows: int, num_columns: int, device: torch.device) -> Planes:
    """Room for a matrix, all of it zero."""
    num_parts, width = num_rows // PART_ROWS, num_blocks(num_columns) * BLOCK
    nothing = torch.zeros(0, dtype=torch.uint8, device=device)
    if kind == HQQ4:
        words = torch.zeros(num_rows, width // 4, dtype=torch.int16, device=device)
        low = words.view(torch.uint16)
    else:
        low = torch.zeros(num_rows, width, dtype=torch.int8, device=device)
    scales, zeros = (torch.zeros(num_parts, width, device=device) for _ in range(2))
    return Planes(low, nothing, scales, zeros, nothing)


def pack_hqq_planes(
    kind: int, num_rows: int, num_columns: int, pieces: Iterable[Tensor], device: torch.device
) -> PackedMatrix:
    """A matrix of its parts, uint8 [parts, bytes], which come in one piece."""
    (data,) = pieces
    planes = empty_hqq_planes(kind, num_rows, num_columns, device)
    step = max(1, _PIECE_WEIGHTS // (PART_ROWS * num_columns))
    for first in range(0, len(data), step):
        _write(planes, kind, first, data[first : first + step].to(device), num_columns)
    nothing = torch.empty(0, dtype=torch.uint8, device=device)
    return PackedMatrix(kind, num_rows, num_columns, nothing, planes=planes)


def _write(planes: Planes, kind: int, first: int, parts: Tensor, num_columns: int) -> None:
    scales, zeros, codes = parts.split(
        (4 * num_columns, 4 * num_columns, parts.shape[1] - 8 * num_columns), dim=1
    )
    whole = slice(first, first + len(parts))
    planes.scales[whole, :num_columns] = scales.contiguous().view(torch.float32)
    planes.supers[whole, :num_columns] = zeros.contiguous().view(torch.float32)
    rows = codes.unflatten(1, (-1, num_columns))
    if BITS[kind] == 4:
        rows = torch.cat([rows >> 4, rows & 15], dim=1)
    own = slice(first * PART_ROWS, (first + len(parts)) * PART_ROWS)
    of_planes = by_planes(rows.flatten(0, 1), len(parts) * PART_ROWS)
    if kind == HQQ4:
        planes.low.view(torch.int16)[own] = words_of(of_planes, 4)
    else:
        # Codes of what a row is filled up with are those of no weight: scales there are zero.
        planes.low[own] = (of_planes ^ 128).view(torch.int8).flatten(1)
