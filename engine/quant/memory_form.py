"""How a matrix of a format lies in memory for the kernels: as a kind of theirs, value for value."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gguf.constants import GGMLQuantizationType as Type
from torch import Tensor

from engine.quant.fp8 import FP8
from engine.quant.registry import Format
from engine.quant.row_format import RowFormat
from engine.quant.scaled_rows import FP8_ROWS, ScaledRows, rows_format


class MemoryForm(NamedTuple):
    """Rows of blocks of a `kind` of kernels/packed.py.

    `pack` makes them, uint8 [R, bytes], of float weights [R, C] and their importance [C], if any.
    Where `is_whole`, it has to be given all rows of the matrix at once.
    """

    kind: int
    pack: Callable[[Tensor, Tensor | None], Tensor]
    is_whole: bool = False


def memory_form(format: Format, num_columns: int) -> MemoryForm | None:
    """The form of a matrix in `format`, None if the kernels have no kind that holds it."""
    if isinstance(format, RowFormat):
        return MemoryForm(int(Type[format.name]), format.quantize)
    if format is FP8 and (rows := rows_format(FP8_ROWS, num_columns)) is not None:
        return MemoryForm(rows.kind, partial(_fp8_by_rows, rows), is_whole=True)
    return None


def _fp8_by_rows(rows: ScaledRows, weights: Tensor, _importance: Tensor | None) -> Tensor:
    packed = FP8.quantize(weights)
    return rows.pack(packed.codes.view(weights.shape), packed.scales.expand(len(weights), 1))
