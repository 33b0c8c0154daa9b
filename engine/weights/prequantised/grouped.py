"""A matrix of codes whose groups share a scale: its weights, and the blocks that hold it exactly.

Knows no method; each one's file says where codes and scales are.
"""

from collections.abc import Callable, Iterator
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from engine.quant.scaled_rows import AFFINE4_ROWS, AFFINE8_ROWS, ScaledRows, rows_format
from kernels.packing import PIECE_ROWS

_PIECE_WEIGHTS = 1 << 19  # larger ones leave holes in the heap, between matrices that stay


class GroupedMatrix(NamedTuple):
    """A weight is (code - zero) * scale in float32, without a zero code * scale.

    `codes(start, stop)` gives those rows [n, columns], uint8 or float8_e4m3fn in FP8. `formats` are
    the packed ones for such codes, by the columns of a block. scales, zeros: float32 [R, G], one
    for `block_rows` rows and `group` columns, of which the last may be fewer. `groups` [columns]
    says which column belongs to which group where that is not the order.
    """

    shape: tuple[int, int]
    formats: dict[int, ScaledRows]
    codes: Callable[[int, int], Tensor]
    scales: Tensor
    zeros: Tensor | None
    group: int
    block_rows: int = 1
    groups: Tensor | None = None

    @property
    def kind(self) -> int | None:
        """The packed format that holds the matrix, None if there is none."""
        form = self._format()
        return None if form is None else form.kind

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
        form = self._format()
        assert form is not None, "the caller has asked"
        for start, stop in self._stretches(PIECE_ROWS):
            scales, zeros = (
                None if values is None else self._spread(values, start, stop, form.num_weights)
                for values in (self.scales, self.zeros)
            )
            assert scales is not None
            yield form.pack(self.codes(start, stop), scales, zeros)

    def _format(self) -> ScaledRows | None:
        if self.groups is not None:
            return None
        return rows_format(self.formats, gcd(self.group, self.shape[1]))

    def _stretches(self, multiple: int) -> Iterator[tuple[int, int]]:
        num_rows, num_columns = self.shape
        step = max(1, _PIECE_WEIGHTS // max(1, num_columns * multiple)) * multiple
        for start in range(0, num_rows, step):
            yield start, min(start + step, num_rows)

    def _spread(self, values: Tensor, start: int, stop: int, width: int = 1) -> Tensor:
        """[R, G] to those of rows start to stop, one for `width` columns: [n, columns / width]."""
        rows = values.index_select(0, torch.arange(start, stop) // self.block_rows)
        groups = self.groups
        if groups is None:
            groups = torch.arange(0, self.shape[1], width) // self.group
        return rows.index_select(1, groups)


def formats_for(bits: int) -> dict[int, ScaledRows]:
    """Those that hold integers of so many bits."""
    return AFFINE8_ROWS if bits > 4 else AFFINE4_ROWS
