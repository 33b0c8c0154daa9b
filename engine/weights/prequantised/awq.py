"""AWQ for gemm kernels: codes of 4 bits, packed along the output, and a whole zero for each group.

Per matrix of `out` rows and `in` columns: qweight int32 [in, out / 8], qzeros int32 [G, out / 8],
scales [G, out]. The eight codes of a word are those of rows 0, 2, 4, 6, 1, 3, 5, 7 from the lowest
bits on. Source: AutoAWQ's WQLinear_GEMM.
"""

import torch
from torch import Tensor

from engine.weights.prequantised.config import Awq
from engine.weights.prequantised.grouped import GroupedMatrix, formats_for
from engine.weights.prequantised.parts import (
    FLOATS,
    Parts,
    Stored,
    check_shape,
    damaged,
    find_parts,
    take,
)
from engine.weights.prequantised.words import unpack_words

_BITS = 4
_IN_WORD = 8


class AwqLayout:
    """How such a checkpoint's matrices lie in it."""

    def __init__(self, stored: Stored, config: Awq) -> None:
        self._stored = stored
        self._config = config

    def find(self) -> dict[str, Parts]:
        """The matrices and their parts."""
        return find_parts(self._stored.names(), "qweight", ("qzeros", "scales"))

    def matrix(self, parts: Parts) -> GroupedMatrix:
        """Raises LoadError if parts are missing or do not fit."""
        scales = take(self._stored, parts, "scales", FLOATS, 2).float()
        num_groups, num_rows = scales.shape
        if num_rows % _IN_WORD:
            raise damaged(parts, "scales", f"is of {num_rows} rows, no multiple of {_IN_WORD}")
        qzeros = take(self._stored, parts, "qzeros", (torch.int32,))
        check_shape(parts, "qzeros", qzeros, (num_groups, num_rows // _IN_WORD))
        zeros = _unpack(qzeros).float()
        qweight = take(self._stored, parts, "qweight", (torch.int32,), 2)
        num_columns = len(qweight)
        check_shape(parts, "qweight", qweight, (num_columns, num_rows // _IN_WORD))
        return GroupedMatrix(
            (num_rows, num_columns),
            formats_for(_BITS),
            lambda start, stop: _rows(self._stored.tensor(parts["qweight"]), start, stop),
            scales.T,
            zeros.T,
            self._group(parts, num_columns, num_groups),
        )

    def _group(self, parts: Parts, num_columns: int, num_groups: int) -> int:
        size = self._config.group_size
        size = num_columns if size == -1 else size
        if -(-num_columns // size) != num_groups:
            raise damaged(parts, "scales", f"is not for groups of {size} of {num_columns} columns")
        return size


def _rows(qweight: Tensor, start: int, stop: int) -> Tensor:
    """Codes of the rows [n, in] out of words [in, out / 8]."""
    first, last = start // _IN_WORD, -(-stop // _IN_WORD)
    codes = _unpack(qweight[:, first:last]).T
    return codes[start - first * _IN_WORD : stop - first * _IN_WORD]


def _unpack(words: Tensor) -> Tensor:
    """int32 [N, W] to uint8 [N, 8 * W]."""
    codes = unpack_words(words, _BITS, words.shape[1] * _IN_WORD)
    # Rows 0, 2, 4, 6 and then 1, 3, 5, 7: two halves, of which every second row is.
    return codes.view(*words.shape, 2, _IN_WORD // 2).transpose(2, 3).flatten(1)


open_layout = AwqLayout
