"""Rows of a packed matrix, as its kind is defined: the truth for kernels/cpu/packed_rows.py."""

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize
from torch import Tensor

from kernels.hqq_parts import hqq_rows
from kernels.own_kinds import row_kind
from kernels.packed import HQQ4, HQQ8, PackedMatrix
from kernels.recoding import recoding

_NOT_IN_GGUF_PY = frozenset({Type.Q8_1, Type.Q8_K, Type.Q1_0})


def packed_rows(matrix: PackedMatrix, indices: Tensor) -> Tensor:
    """Rows `indices` [N] int64 of a matrix in rows of blocks, unpacked: [N, columns] float32.

    Damaged scales make infinite weights or ones that are no numbers, without a warning.
    """
    if matrix.kind in (HQQ4, HQQ8):
        return hqq_rows(matrix, indices)
    kind, blocks = matrix.kind, matrix.data.index_select(0, indices)
    if kind in _NOT_IN_GGUF_PY and (rewrite := recoding(kind)) is not None:
        kind, blocks = rewrite.kind, torch.from_numpy(rewrite.rows(blocks.numpy()))
    if (own := row_kind(kind)) is not None:
        return own.rows(blocks)
    with np.errstate(all="ignore"):
        weights = dequantize(blocks.numpy(), Type(kind))
    return torch.from_numpy(weights)
