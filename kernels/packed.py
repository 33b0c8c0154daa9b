"""A matrix that stays in the blocks of a GGML type. Plain data: what `packed_linear` takes."""

from typing import NamedTuple

from torch import Tensor


class PackedMatrix(NamedTuple):
    """`num_rows` by `num_columns` weights of a GGML type, by the number that GGUF files use."""

    kind: int
    num_rows: int
    num_columns: int
    data: Tensor  # uint8: [rows, bytes] as in a file or, if tiled, as kernels/cpu/native has it
    is_tiled: bool = False
