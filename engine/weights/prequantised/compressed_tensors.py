"""compressed-tensors: integers packed in words or one a byte, and FP8.

Per matrix, `weight_packed` int32 [out, in * bits / 32] with weight_shape (pack-quantized), or
`weight` in int8 or float8_e4m3fn (int-, float- and naive-quantized); weight_scale, one for a
matrix, a row, a group [out, G] or a block; where it is asymmetric weight_zero_point like it, itself
packed along the rows if the weights are; weight_g_idx [in] where columns are grouped by activation.
Packed integers have 2 ** (bits - 1) added. Source: the package's compressors.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.weights.prequantised.config import Compressed
from engine.weights.prequantised.fp8 import E4M3, fp8_matrix
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
from engine.weights.prequantised.scales import Grid, column_groups, make_grid
from engine.weights.prequantised.words import num_words, unpack_words

_WITH_SCALE = ("weight_scale", "weight_zero_point", "weight_g_idx")
_QUANTISED = (torch.int8, E4M3)


class CompressedLayout:
    """How such a checkpoint's matrices lie in it."""

    def __init__(self, stored: Stored, config: Compressed) -> None:
        self._stored = stored
        self._config = config
        self._blocks = {weights.block for weights in config.weights if weights.block}

    def find(self) -> dict[str, Parts]:
        """The matrices and their parts."""
        names = self._stored.names()
        packed = find_parts(names, "weight_packed", ("weight_shape", *_WITH_SCALE))
        every = find_parts(names, "weight", _WITH_SCALE)
        bytewise = {
            name: parts
            for name, parts in every.items()
            if len(parts) > 1 or self._stored.tensor(name).dtype in _QUANTISED
        }
        return {**packed, **bytewise}

    def matrix(self, parts: Parts) -> GroupedMatrix:
        """Raises LoadError if parts are missing or do not fit."""
        scales = take(self._stored, parts, "weight_scale", FLOATS).float()
        if "weight_packed" in parts:
            return self._packed(parts, scales)
        if self._stored.tensor(parts["weight"]).dtype == E4M3:
            return self._floats(parts, scales)
        return self._bytes(parts, scales)

    def _floats(self, parts: Parts, scales: Tensor) -> GroupedMatrix:
        if "weight_zero_point" in parts and self._zeros_as_stored(parts).any():
            raise damaged(parts, "weight_zero_point", "is not 0, as it has to be beside FP8")
        block = next(iter(self._blocks), None)
        return fp8_matrix(self._stored, parts, "weight_scale", scales, block)

    def _zeros_as_stored(self, parts: Parts) -> Tensor:
        return take(self._stored, parts, "weight_zero_point", (torch.int8, E4M3)).float()

    def _bytes(self, parts: Parts, scales: Tensor) -> GroupedMatrix:
        """Integers, one a byte."""
        bits = max((w.num_bits for w in self._config.weights if w.type == "int"), default=8)
        half = 1 << (bits - 1)
        zeros = half + self._zeros_as_stored(parts) if "weight_zero_point" in parts else None
        weight = take(self._stored, parts, "weight", (torch.int8,), 2)

        def codes(start: int, stop: int) -> Tensor:
            integers = self._stored.tensor(parts["weight"])[start:stop]
            shifted = integers.to(torch.int16) + half
            if ((shifted < 0) | (shifted >= 2 * half)).any():
                raise damaged(parts, "weight", f"has integers of more than {bits} bits")
            return shifted.to(torch.uint8)

        shape = (len(weight), weight.shape[1])
        return self._grouped(parts, shape, bits, codes, scales, zeros)

    def _packed(self, parts: Parts, scales: Tensor) -> GroupedMatrix:
        """Integers in words."""
        shape = self._shape(parts)
        num_rows, num_columns = shape
        bits = self._bits(parts, shape)
        zeros = None
        if "weight_zero_point" in parts:
            zeros = self._packed_zeros(parts, bits, num_rows)
        take(self._stored, parts, "weight_packed", (torch.int32,))

        def codes(start: int, stop: int) -> Tensor:
            words = self._stored.tensor(parts["weight_packed"])
            return unpack_words(words[start:stop], bits, num_columns)

        return self._grouped(parts, shape, bits, codes, scales, zeros)

    def _shape(self, parts: Parts) -> tuple[int, int]:
        sizes = take(self._stored, parts, "weight_shape", (torch.int64, torch.int32), 1).tolist()
        if len(sizes) != 2 or min(sizes) <= 0:
            raise damaged(parts, "weight_shape", f"is {sizes}, no shape of a matrix")
        return sizes[0], sizes[1]

    def _bits(self, parts: Parts, shape: tuple[int, int]) -> int:
        """Those of the group of modules whose matrices of that shape have so many words."""
        there = self._stored.shape(parts["weight_packed"])
        for bits in sorted({weights.num_bits for weights in self._config.weights}):
            if there == (shape[0], num_words(bits, shape[1])):
                return bits
        raise damaged(
            parts,
            "weight_packed",
            f"has the shape {list(there)}, which no bits of config.json make of {list(shape)}",
        )

    def _packed_zeros(self, parts: Parts, bits: int, num_rows: int) -> Tensor:
        """float32 [out, G], as large as codes. Before they were packed too, they were bytes."""
        zeros = take(self._stored, parts, "weight_zero_point", (torch.int32, torch.int8), 2)
        if zeros.dtype == torch.int8:
            return zeros.float() + (1 << (bits - 1))
        expected = (num_words(bits, num_rows), zeros.shape[1])
        check_shape(parts, "weight_zero_point", zeros, expected)
        return unpack_words(zeros.T, bits, num_rows).T.float()

    def _grouped(
        self,
        parts: Parts,
        shape: tuple[int, int],
        bits: int,
        codes: Callable[[int, int], Tensor],
        scales: Tensor,
        zeros: Tensor | None,
    ) -> GroupedMatrix:
        grid, groups = self._grid(parts, shape, scales)
        if zeros is None:
            zeros = torch.full(grid.scales.shape, float(1 << (bits - 1)))
        elif zeros.numel() == grid.scales.numel():
            zeros = zeros.view(grid.scales.shape)
        else:
            check_shape(parts, "weight_zero_point", zeros, tuple(grid.scales.shape))
        return GroupedMatrix(
            shape, formats_for(bits), codes, grid.scales, zeros, grid.group, grid.block_rows, groups
        )

    def _grid(
        self, parts: Parts, shape: tuple[int, int], scales: Tensor
    ) -> tuple[Grid, Tensor | None]:
        """The scales, and which columns are whose where that is not their order."""
        if "weight_g_idx" in parts:
            group_of = take(self._stored, parts, "weight_g_idx", (torch.int32, torch.int64), 1)
            if (group_of != -1).any():  # else it was never set
                check_shape(parts, "weight_g_idx", group_of, (shape[1],))
                check_shape(parts, "weight_scale", scales, (shape[0], *scales.shape[1:2]))
                group, groups = column_groups(group_of, scales.shape[1], parts, "weight_g_idx")
                return Grid(scales, 1, group), groups
        block = next(iter(self._blocks), None)
        return make_grid(scales, shape, block, parts, "weight_scale"), None


open_layout = CompressedLayout
