"""What a block format is, and how rows of weights go through one. Knows no single format."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from engine.quant.parallel import in_threads

_CHUNK_WEIGHTS = 1 << 17  # a thread's share at a time: what the searches make of it fits a cache


class Codes(NamedTuple):
    """Blocks taken apart. A weight is `scale * code - min` in float32, exactly, group by group.

    codes [N, W] int8; scales [N, G] float32; mins [N, G] float32, or None where there are none.
    A group is W / G neighbours.
    """

    codes: Tensor
    scales: Tensor
    mins: Tensor | None = None


class RowFormat(NamedTuple):
    """A packed format: blocks of `num_weights` neighbours of a row in `num_bytes` bytes.

    `unpack` takes blocks [N, num_bytes] apart. `encode` makes them of finite float32 weights
    [N, num_weights] and, in formats that take one, their importance, of the same shape.
    """

    name: str
    num_weights: int
    num_bytes: int
    unpack: Callable[[Tensor], Codes]
    encode: Callable[[Tensor, Tensor | None], Tensor]
    takes_imatrix: bool = False

    def quantize(self, rows: Tensor, imatrix: Tensor | None = None) -> Tensor:
        """Pack weights [..., C] of any float dtype into uint8 [..., bytes of a row].

        `imatrix` [C] says how much an error in each column matters; its unit does not. Raises
        ValueError for rows of no whole number of blocks, weights that are not finite, and an
        imatrix that does not fit or that the format has no use for.
        """
        self._check(rows.shape[-1], self.num_weights)
        if imatrix is not None:
            imatrix = self._importance(imatrix, rows.shape[-1])
        flat = rows.reshape(-1, rows.shape[-1])
        packed = torch.empty(len(flat), self._row_bytes(rows.shape[-1]), dtype=torch.uint8)

        def task(part: slice) -> None:
            weights = flat[part].float()
            if not weights.isfinite().all():
                raise ValueError("there are weights that are infinite or not a number")
            blocks = weights.reshape(-1, self.num_weights)
            matters = None
            if imatrix is not None:
                matters = imatrix.expand(len(weights), -1).reshape(blocks.shape)
            packed[part] = self.encode(blocks, matters).view(len(weights), -1)

        in_threads(task, _chunks(len(flat), rows.shape[-1]))
        return packed.view(*rows.shape[:-1], -1)

    def dequantize(self, packed: Tensor) -> Tensor:
        """Unpack uint8 [..., bytes of a row] to float32 [..., C].

        Scales that are infinite or not a number give weights that are so too. Raises ValueError
        for rows of no whole number of blocks.
        """
        self._check(packed.shape[-1], self.num_bytes)
        flat = packed.reshape(-1, packed.shape[-1])
        columns = packed.shape[-1] // self.num_bytes * self.num_weights
        weights = torch.empty(len(flat), columns)

        def task(part: slice) -> None:
            blocks = flat[part].reshape(-1, self.num_bytes)
            weights[part] = _weights(self.unpack(blocks)).view(-1, columns)

        in_threads(task, _chunks(len(flat), columns))
        return weights.view(*packed.shape[:-1], columns)

    def _row_bytes(self, columns: int) -> int:
        return columns // self.num_weights * self.num_bytes

    def _check(self, length: int, unit: int) -> None:
        if not length or length % unit:
            raise ValueError(f"a row of {length} is no whole number of {self.name} blocks ({unit})")

    def _importance(self, imatrix: Tensor, columns: int) -> Tensor:
        if not self.takes_imatrix:
            raise ValueError(f"{self.name} has no use for an imatrix")
        if imatrix.shape != (columns,):
            raise ValueError(f"an imatrix of {list(imatrix.shape)} for rows of {columns}")
        imatrix = imatrix.float()
        if not (imatrix.isfinite() & (imatrix >= 0)).all():
            raise ValueError("an imatrix must have finite values, none below zero")
        return imatrix


def _weights(blocks: Codes) -> Tensor:
    groups = blocks.codes.view(*blocks.scales.shape, -1).float()
    weights = groups.mul_(blocks.scales.unsqueeze(-1))
    return weights if blocks.mins is None else weights.sub_(blocks.mins.unsqueeze(-1))


def _chunks(num_rows: int, columns: int) -> list[slice]:
    """Rows at a time."""
    step = max(1, _CHUNK_WEIGHTS // columns)
    return [slice(start, start + step) for start in range(0, num_rows, step)]
