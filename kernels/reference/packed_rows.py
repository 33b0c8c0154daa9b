"""Rows of a packed matrix, as its kind is defined: the truth for kernels/cpu/packed_rows.py."""

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from kernels.own_kinds import row_kind
from kernels.packed import PackedMatrix


def packed_rows(matrix: PackedMatrix, indices: Tensor) -> Tensor:
    """Rows `indices` [N] int64 of a matrix in rows of blocks, unpacked: [N, columns] float32.

    Damaged scales make infinite weights or ones that are no numbers, without a warning.
    """
    blocks = matrix.data.index_select(0, indices)
    if (own := row_kind(matrix.kind)) is not None:
        return own.rows(blocks)
    with np.errstate(all="ignore"):
        weights = dequantize(blocks.numpy(), GGMLQuantizationType(matrix.kind))
    return torch.from_numpy(weights)
