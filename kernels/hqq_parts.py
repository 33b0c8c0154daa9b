"""HQQ matrices as kernels take them. 64 rows a 64th of the matrix apart share scales and zeros.

Such rows are a part: row i of part q is row i * (number of parts) + q. Its bytes are the float32
scales and zeros of all columns, then the codes of its rows, [64, columns]; of four bits [32,
columns], with row i in the high and row i + 32 in the low halves. A weight is
(code - zero) * scale in float32.
"""

import torch
from torch import Tensor

from kernels.packed import HQQ4, HQQ8, PackedMatrix

PART_ROWS = 64
BITS = {HQQ4: 4, HQQ8: 8}


def can_hold(num_rows: int, num_columns: int) -> bool:
    """Whether a matrix is a whole number of parts, and of what kernels take at a time."""
    return num_rows % PART_ROWS == 0 and num_columns % 32 == 0


def hqq_matrix(
    kind: int, codes: Tensor, scales: Tensor, zeros: Tensor, num_rows: int, num_columns: int
) -> PackedMatrix:
    """A matrix of codes uint8 [64 or 32, G], scales and zeros float32 [G], column by group.

    As engine/quant/hqq.py makes them: G is the number of weights over 64. Ask `can_hold` first.
    """
    num_parts = num_rows // PART_ROWS
    of_parts = codes.view(len(codes), num_parts, num_columns).transpose(0, 1)
    heads = [numbers.float().view(num_parts, -1).view(torch.uint8) for numbers in (scales, zeros)]
    data = torch.cat([*heads, of_parts.reshape(num_parts, -1)], dim=1)
    return PackedMatrix(kind, num_rows, num_columns, data)


def hqq_rows(matrix: PackedMatrix, indices: Tensor) -> Tensor:
    """Rows `indices` [N] of such a matrix, unpacked: [N, columns] float32."""
    num_parts, columns = len(matrix.data), matrix.num_columns
    row, part = indices // num_parts, indices % num_parts
    scales = matrix.data[:, : 4 * columns].view(torch.float32)
    zeros = matrix.data[:, 4 * columns : 8 * columns].view(torch.float32)
    bits = BITS[matrix.kind]
    stored = PART_ROWS * bits // 8
    codes = matrix.data[:, 8 * columns :].unflatten(1, (stored, columns))[part, row % stored]
    if bits == 4:
        codes = torch.where((row < stored).unsqueeze(1), codes >> 4, codes & 15)
    weights: Tensor = (codes.float() - zeros[part]) * scales[part]
    return weights
