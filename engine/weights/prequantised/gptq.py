"""GPTQ: codes of 2, 3, 4 or 8 bits, packed along the input, and a whole zero for each group.

Per matrix of `out` rows and `in` columns: qweight int32 [in * bits / 32, out], qzeros int32 [G, out
* bits / 32], scales [G, out], g_idx int32 [in], the group of each column. Sources: AutoGPTQ's and
GPTQModel's QuantLinear (format v1 keeps zeros less one, modulo 2 ** bits; v2 as they are).
"""

import torch
from torch import Tensor

from engine.weights.prequantised.config import Gptq
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
from engine.weights.prequantised.scales import column_groups
from engine.weights.prequantised.words import num_words, unpack_words


class GptqLayout:
    """How such a checkpoint's matrices lie in it."""

    def __init__(self, stored: Stored, config: Gptq) -> None:
        self._stored = stored
        self._config = config

    def find(self) -> dict[str, Parts]:
        """The matrices and their parts."""
        return find_parts(self._stored.names(), "qweight", ("qzeros", "scales", "g_idx"))

    def matrix(self, parts: Parts) -> GroupedMatrix:
        """Raises LoadError if parts are missing or do not fit."""
        scales = take(self._stored, parts, "scales", FLOATS, 2).float()
        num_groups, num_rows = scales.shape
        group_of = self._group_of(parts)
        qweight = take(self._stored, parts, "qweight", (torch.int32,), 2)
        bits, num_columns = self._size(parts, qweight, group_of)
        check_shape(parts, "qweight", qweight, (num_words(bits, num_columns), num_rows))
        zeros = self._zeros(parts, bits, num_groups, num_rows)
        group, groups = self._groups(parts, group_of, num_columns, num_groups)

        def codes(start: int, stop: int) -> Tensor:
            words = self._stored.tensor(parts["qweight"])
            return unpack_words(words[:, start:stop].T, bits, num_columns)

        return GroupedMatrix(
            (num_rows, num_columns),
            formats_for(bits),
            codes,
            scales.T,
            zeros.T,
            group,
            groups=groups,
        )

    def _group_of(self, parts: Parts) -> Tensor | None:
        """The group of each column; GPTQModel leaves it out where it is the order."""
        if "g_idx" not in parts:
            return None
        group_of = take(self._stored, parts, "g_idx", (torch.int32, torch.int64), 1)
        if not len(group_of):
            raise damaged(parts, "g_idx", "is empty")
        return group_of

    def _size(self, parts: Parts, qweight: Tensor, group_of: Tensor | None) -> tuple[int, int]:
        """Bits and columns. With `dynamic`, modules differ in bits, which g_idx then tells."""
        bits, num_words_there = self._config.bits, len(qweight)
        if group_of is None:
            return bits, num_words_there * 32 // bits
        if self._config.dynamic:
            bits = num_words_there * 32 // len(group_of)
        if bits not in (2, 3, 4, 8):
            raise damaged(parts, "qweight", f"has {bits} bits a weight, not 2, 3, 4 or 8")
        return bits, len(group_of)

    def _zeros(self, parts: Parts, bits: int, num_groups: int, num_rows: int) -> Tensor:
        """float32 [G, out]."""
        qzeros = take(self._stored, parts, "qzeros", (torch.int32,))
        check_shape(parts, "qzeros", qzeros, (num_groups, num_words(bits, num_rows)))
        zeros = unpack_words(qzeros, bits, num_rows)
        if self._config.layout == "gptq":
            zeros = (zeros + 1) & ((1 << bits) - 1)
        return zeros.float()

    def _groups(
        self, parts: Parts, group_of: Tensor | None, num_columns: int, num_groups: int
    ) -> tuple[int, Tensor | None]:
        """Columns of a group, and which are whose if that is not their order."""
        if group_of is None:
            size = self._config.group_size
            size = num_columns if size == -1 else size
            if -(-num_columns // size) != num_groups:
                raise damaged(parts, "scales", f"is not for groups of {size} of {num_columns}")
            return size, None
        return column_groups(group_of, num_groups, parts, "g_idx")


open_layout = GptqLayout
