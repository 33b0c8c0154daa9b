"""How a matrix of a format lies in memory for the kernels: as a kind of theirs, value for value."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from gguf.constants import GGMLQuantizationType as Type
from torch import Tensor

from engine.quant.fp8 import FP8, codes_of, scale_of
from engine.quant.registry import Format
from engine.quant.row_format import RowFormat
from engine.quant.scaled_rows import FP8_ROWS, ScaledRows, rows_format

Pack = Callable[[Tensor, Tensor | None], Tensor]


class MemoryForm(NamedTuple):
    """Rows of blocks of a `kind` of kernels/packed.py.

    `pack_for`, given all pieces of a matrix once, returns what packs them: of float weights [R, C]
    and their importance [C], if any, it makes uint8 [R, bytes].
    """

    kind: int
    pack_for: Callable[[Iterable[Tensor]], Pack]


def memory_form(format: Format, num_columns: int) -> MemoryForm | None:
    """The form of a matrix in `format`, None if the kernels have no kind that holds it."""
    if isinstance(format, RowFormat):
        return MemoryForm(int(Type[format.name]), lambda _pieces: format.quantize)
    if format is FP8 and (rows := rows_format(FP8_ROWS, num_columns)) is not None:
        return MemoryForm(rows.kind, partial(_fp8_by_rows, rows))
    return None


def _fp8_by_rows(rows: ScaledRows, pieces: Iterable[Tensor]) -> Pack:
    scale = scale_of(pieces)
    return lambda weights, _: rows.pack(codes_of(weights, scale), scale.expand(len(weights), 1))
