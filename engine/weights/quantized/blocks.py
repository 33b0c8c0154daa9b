"""Codes, scales and zeros of other tools as rows of blocks: which kind holds them, and its bytes.

The kinds are described in kernels/packed.py.
"""

from typing import Literal

import torch
from torch import Tensor

from engine.quant.bits import join_bits

Form = Literal["4 bits", "8 bits", "fp8"]

_WIDTHS = (128, 64, 32)  # columns of a block, which share a scale
_KINDS: dict[Form, int] = {"4 bits": 1000, "8 bits": 2000, "fp8": 3000}  # and the width


def find_kind(form: Form, num_columns: int, group: int) -> int | None:
    """The kind of the widest blocks in which all columns share a scale; None if there are none.

    `group` columns of a row share one.
    """
    for width in _WIDTHS:
        if num_columns and num_columns % width == 0 and min(group, num_columns) % width == 0:
            return _KINDS[form] + width
    return None


def width_of(kind: int) -> int:
    """Columns of a block."""
    return kind % 1000


def join_blocks(kind: int, codes: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
    """Rows of blocks, uint8 [R, bytes].

    codes [R, C]: uint8, or float8_e4m3fn, which have no zeros; scales, zeros: float32 [R, C / width].
    """
    numbers = [scales] if zeros is None else [scales, zeros]
    blocks = codes.view(torch.uint8).reshape(*scales.shape, -1)
    if kind < _KINDS["8 bits"]:
        blocks = join_bits(blocks.unflatten(-1, (2, -1)), 4)
    heads = [part.contiguous().view(torch.uint8).view(*scales.shape, 4) for part in numbers]
    return torch.cat([*heads, blocks], dim=-1).flatten(1)
