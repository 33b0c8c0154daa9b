"""Rows of integer or E4M3 codes under float32 scales: what checkpoints of other tools hold.

AFFINE4 and AFFINE8 hold the codes of GPTQ, AWQ and compressed-tensors exactly, FP8_ROWS those of
FP8 checkpoints. Unlike the formats that quantise, they take codes, scales and zeros as they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.own_kinds import AFFINE4, AFFINE8, FP8, GROUPS, row_kind


class ScaledRows(NamedTuple):
    """Blocks of `num_weights` columns; `kind` is their number in `PackedMatrix`."""

    name: str
    kind: int
    num_weights: int
    bits: int
    has_zeros: bool

    @property
    def num_bytes(self) -> int:
        """Of a block."""
        return (8 if self.has_zeros else 4) + self.num_weights * self.bits // 8

    def pack(self, codes: Tensor, scales: Tensor, zeros: Tensor | None = None) -> Tensor:
        """uint8 [R, bytes of a row] of codes [R, C], a byte each, scales and zeros [R, S].

        A weight is (code - zero) * scale, or E4M3 code * scale, in float32. A scale stands for
        C / S neighbours, a multiple of `num_weights`. Zeros are float32 too, and missing in FP8.
        Raises ValueError if the shapes do not fit or a code does not.
        """
        self._check(codes, scales, zeros)
        blocks = codes.contiguous().view(torch.uint8).reshape(-1, self.num_weights)
        if self.bits == 4:
            low, high = blocks.chunk(2, dim=1)
            blocks = low | (high << 4)
        heads = [
            self._head(numbers, codes.shape[1])
            for numbers in (scales, zeros)
            if numbers is not None
        ]
        return torch.cat([*heads, blocks], dim=1).view(len(codes), -1)

    def dequantize(self, packed: Tensor) -> Tensor:
        """Unpack uint8 [..., bytes of a row] to float32 [..., C]."""
        length = packed.shape[-1]
        if not length or length % self.num_bytes:
            raise ValueError(
                f"a row of {length} is no whole number of {self.name} blocks ({self.num_bytes})"
            )
        kind = row_kind(self.kind)
        assert kind is not None
        return kind.rows(packed.reshape(-1, length)).view(*packed.shape[:-1], -1)

    def _head(self, numbers: Tensor, columns: int) -> Tensor:
        """The bytes [blocks, 4] of one float32 number for each block."""
        times = columns // self.num_weights // numbers.shape[1]
        repeated = numbers.float().repeat_interleave(times, dim=1)
        return repeated.view(-1, 1).view(torch.uint8)

    def _check(self, codes: Tensor, scales: Tensor, zeros: Tensor | None) -> None:
        rows, columns = codes.shape
        if (zeros is not None) != self.has_zeros:
            raise ValueError(f"{self.name} has {'' if self.has_zeros else 'no '}zeros")
        for numbers in (scales, zeros):
            if numbers is not None and not self._fits(numbers, rows, columns):
                raise ValueError(
                    f"{list(numbers.shape)} scales or zeros do not fit codes {[rows, columns]} in "
                    f"blocks of {self.num_weights}"
                )
        if self.bits == 4 and codes.numel() and int(codes.max()) > 15:
            raise ValueError(f"there are codes above 15, which {self.name} does not hold")

    def _fits(self, numbers: Tensor, rows: int, columns: int) -> bool:
        if numbers.dim() != 2 or len(numbers) != rows or not numbers.shape[1]:
            return False
        return not columns % (numbers.shape[1] * self.num_weights)


def rows_format(formats: dict[int, ScaledRows], group: int) -> ScaledRows | None:
    """The one with the largest blocks for scales that stand for `group` columns; None if none."""
    fitting = [size for size in formats if group > 0 and group % size == 0]
    return formats[max(fitting)] if fitting else None


AFFINE4_ROWS = {g: ScaledRows(f"AFFINE4_{g}", AFFINE4 + g, g, 4, True) for g in GROUPS}
AFFINE8_ROWS = {g: ScaledRows(f"AFFINE8_{g}", AFFINE8 + g, g, 8, True) for g in GROUPS}
FP8_ROWS = {g: ScaledRows(f"FP8_{g}", FP8 + g, g, 8, False) for g in GROUPS}
