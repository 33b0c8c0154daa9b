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
from engine.quant.tensor_format import TensorFormat
from kernels.hqq_parts import can_hold, hqq_matrix
from kernels.packed import HQQ4, HQQ8

_HQQ = {"HQQ4": HQQ4, "HQQ8": HQQ8}

Pack = Callable[[Tensor, Tensor | None], Tensor]


class MemoryForm(NamedTuple):
    """Rows of blocks, or parts, of a `kind` of kernels/packed.py.

    `pack_for`, given all pieces of a matrix once, returns what packs them: of float weights [R, C]
    and their importance [C], if any, it makes uint8 [R, bytes]. Where `is_whole`, that takes all
    rows of the matrix at once.
    """

    kind: int
    pack_for: Callable[[Iterable[Tensor]], Pack]
    is_whole: bool = False


def memory_form(format: Format, num_rows: int, num_columns: int) -> MemoryForm | None:
    """The form of a matrix in `format`, None if the kernels have no kind that holds it."""
    if isinstance(format, RowFormat):
        return MemoryForm(int(Type[format.name]), lambda _pieces: format.quantize)
    if format.name in _HQQ and can_hold(num_rows, num_columns):
        kind = _HQQ[format.name]
        return MemoryForm(kind, lambda _: partial(_hqq_parts, format, kind), is_whole=True)
    if format is FP8 and (rows := rows_format(FP8_ROWS, num_columns)) is not None:
        return MemoryForm(rows.kind, partial(_fp8_by_rows, rows))
    return None


def _hqq_parts(
    format: TensorFormat, kind: int, weights: Tensor, _importance: Tensor | None
) -> Tensor:
    codes, scales, zeros, shape = format.quantize(weights)
    assert zeros is not None
    return hqq_matrix(kind, codes, scales, zeros, *shape).data


def _fp8_by_rows(rows: ScaledRows, pieces: Iterable[Tensor]) -> Pack:
    scale = scale_of(pieces)
    return lambda weights, _: rows.pack(codes_of(weights, scale), scale.expand(len(weights), 1))
