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


class Projection:
    """`x @ weight.T + bias` with packed matrices [O, I], side by side. Not to be changed.

    Without `is_exact`, the input is rounded to 8 bits. A kernel keeps in `prepared` what it makes
    of the rest, once.
    """

    __slots__ = ("bias", "is_exact", "is_tiled", "matrices", "prepared")

    def __init__(
        self, matrices: tuple[PackedMatrix, ...], bias: Tensor | None, is_exact: bool
    ) -> None:
        self.matrices, self.bias, self.is_exact = matrices, bias, is_exact
        self.is_tiled = all(matrix.is_tiled for matrix in matrices)
        self.prepared: object = None

    def holds(
        self, matrices: tuple[PackedMatrix, ...], bias: Tensor | None, is_exact: bool
    ) -> bool:
        """Whether it was made of these very objects."""
        return self.matrices is matrices and self.bias is bias and self.is_exact == is_exact
