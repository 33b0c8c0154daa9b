"""A matrix of codes whose groups share a scale: its weights, and the blocks that hold it exactly.

Knows no method; each one's file says where codes and scales are.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from engine.weights.quantized import blocks
from engine.weights.quantized.blocks import Form
from kernels.packing import PIECE_ROWS

_PIECE_WEIGHTS = 1 << 22


class GroupedMatrix(NamedTuple):
    """A weight is (code - zero) * scale in float32, without a zero code * scale.

    `codes(start, stop)` gives those rows [n, columns]: uint8, or float8_e4m3fn in the form `fp8`.
    scales, zeros: float32 [R, G], the same for `block_rows` rows and `group` columns, of which the
    last may be fewer. `groups` [columns] says which column belongs to which group where that is not
    the order.
    """

    shape: tuple[int, int]
    form: Form
    codes: Callable[[int, int], Tensor]
    scales: Tensor
    zeros: Tensor | None
    group: int
    block_rows: int = 1
    groups: Tensor | None = None

    @property
    def kind(self) -> int | None:
        """The packed format that holds the matrix, None if there is none."""
        if self.groups is not None:
            return None
        return blocks.find_kind(self.form, self.shape[1], self.group)

    @property
    def reason(self) -> str:
        """Why there is none, for a log."""
        if self.groups is not None:
            return "their columns were quantised in another order"
        return f"no packed format has groups of {self.group} in rows of {self.shape[1]}"

    def pieces(self) -> Iterator[Tensor]:
        """The weights, float32 [rows, columns], some rows at a time."""
        for start, stop in self._stretches(1):
            codes = self.codes(start, stop).float()
            if self.zeros is not None:
                codes -= self._spread(self.zeros, start, stop)
            yield codes.mul_(self._spread(self.scales, start, stop))

    def packed_rows(self) -> Iterator[Tensor]:
        """The rows in blocks of `kind`, uint8 [rows, bytes], some multiple of PIECE_ROWS each."""
        kind = self.kind
        assert kind is not None, "the caller has asked"
        width = blocks.width_of(kind)
        for start, stop in self._stretches(PIECE_ROWS):
            scales = self._spread(self.scales, start, stop)[:, ::width]
            zeros = None
            if self.zeros is not None:
                zeros = self._spread(self.zeros, start, stop)[:, ::width]
            yield blocks.join_blocks(kind, self.codes(start, stop), scales, zeros)

    def _stretches(self, multiple: int) -> Iterator[tuple[int, int]]:
        num_rows, num_columns = self.shape
        step = max(1, _PIECE_WEIGHTS // max(1, num_columns * multiple)) * multiple
        for start in range(0, num_rows, step):
            yield start, min(start + step, num_rows)

    def _spread(self, values: Tensor, start: int, stop: int) -> Tensor:
        """[R, G] to the values of rows start to stop, for every column: [n, columns]."""
        rows = values.index_select(0, torch.arange(start, stop) // self.block_rows)
        if self.groups is not None:
            return rows.index_select(1, self.groups)
        return rows.repeat_interleave(self.group, 1)[:, : self.shape[1]]
