"""Rows of blocks that a file may hold, by name: one name, one layout (`Q4_K`, `FP8_128`)."""

from collections.abc import Callable
from typing import NamedTuple

from gguf.constants import GGMLQuantizationType
from torch import Tensor

from engine.quant.registry import ROW_FORMATS
from engine.quant.row_format import RowFormat
from engine.quant.scaled_rows import AFFINE4_ROWS, AFFINE8_ROWS, FP8_ROWS, ScaledRows


class StoredRows(NamedTuple):
    """Blocks of `num_weights` neighbours in `num_bytes` bytes; `kind` is PackedMatrix's number.

    `dequantize` takes uint8 [..., bytes of a row] and gives float32 [..., columns].
    """

    name: str
    kind: int
    num_weights: int
    num_bytes: int
    dequantize: Callable[[Tensor], Tensor]


def _stored(rows: RowFormat | ScaledRows) -> StoredRows:
    kind = rows.kind if isinstance(rows, ScaledRows) else int(GGMLQuantizationType[rows.name])
    return StoredRows(rows.name, kind, rows.num_weights, rows.num_bytes, rows.dequantize)


_FORMATS: tuple[RowFormat | ScaledRows, ...] = (
    *ROW_FORMATS,
    *AFFINE4_ROWS.values(),
    *AFFINE8_ROWS.values(),
    *FP8_ROWS.values(),
)
STORED_ROWS = {rows.name: _stored(rows) for rows in _FORMATS}
ROWS_BY_KIND = {rows.kind: rows for rows in STORED_ROWS.values()}
