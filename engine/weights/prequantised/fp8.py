"""FP8 (E4M3) weights and their scales: one for a matrix, for a row or for a block.

Per matrix: weight float8_e4m3fn [out, in] and `weight_scale_inv` (DeepSeek's, of blocks, to
multiply by in spite of its name) or `weight_scale` (vLLM's, FBGEMM's). Sources: transformers'
finegrained_fp8.py, vLLM's fp8.py.
"""

import torch
from torch import Tensor

from engine.quant.scaled_rows import FP8_ROWS
from engine.weights.prequantised.config import Fp8
from engine.weights.prequantised.grouped import GroupedMatrix
from engine.weights.prequantised.parts import FLOATS, Parts, Stored, damaged, find_parts, take
from engine.weights.prequantised.scales import make_grid

E4M3 = torch.float8_e4m3fn
_SCALES = ("weight_scale_inv", "weight_scale")
_NO_NUMBER = 0x7F  # the code, whatever its sign


class Fp8Layout:
    """How such a checkpoint's matrices lie in it."""

    def __init__(self, stored: Stored, config: Fp8) -> None:
        self._stored = stored
        self._config = config

    def find(self) -> dict[str, Parts]:
        """The matrices and their parts: what has a scale. Without one it is plain, or refused."""
        names = self._stored.names()
        every = find_parts(names, "weight", _SCALES)
        return {
            name: parts
            for name, parts in every.items()
            if len(parts) > 1 or self._stored.tensor(name).dtype == E4M3
        }

    def matrix(self, parts: Parts) -> GroupedMatrix:
        """Raises LoadError if parts are missing or do not fit."""
        word = next((word for word in _SCALES if word in parts), _SCALES[0])
        scales = take(self._stored, parts, word, (*FLOATS, torch.float8_e8m0fnu))
        return fp8_matrix(self._stored, parts, word, scales, self._config.weight_block_size)


def fp8_matrix(
    stored: Stored, parts: Parts, word: str, scales: Tensor, block: tuple[int, int] | None
) -> GroupedMatrix:
    """The matrix of an E4M3 `weight` under `scales`, the part called `word`."""
    scales = scales.float()
    weight = take(stored, parts, "weight", (E4M3,), 2)
    shape = (len(weight), weight.shape[1])
    grid = make_grid(scales, shape, block, parts, word)

    def codes(start: int, stop: int) -> Tensor:
        rows = stored.tensor(parts["weight"])[start:stop]
        if ((rows.view(torch.uint8) & _NO_NUMBER) == _NO_NUMBER).any():
            raise damaged(parts, "weight", "has weights that are no numbers")
        return rows

    return GroupedMatrix(shape, FP8_ROWS, codes, grid.scales, None, grid.group, grid.block_rows)


open_layout = Fp8Layout
