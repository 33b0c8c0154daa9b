"""A matrix that stays packed, and the numbers of the kinds that are ours. Plain data.

It is what `packed_linear` takes. Kinds below 1000 are GGML's types, by the number that GGUF files
use. Ours are rows of blocks like those of GGML (own_kinds.py); a name ends in the number of columns
that share a scale.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

# float32 scale, float32 zero, then unsigned codes; a weight is (code - zero) * scale in float32.
# Four bits: a byte has column i in its low half and i + (columns of a block) / 2 in its high one.
AFFINE4_32, AFFINE4_64, AFFINE4_128 = 1032, 1064, 1128
AFFINE8_32, AFFINE8_64, AFFINE8_128 = 2032, 2064, 2128
# float32 scale, then E4M3 numbers (torch.float8_e4m3fn); a weight is their product in float32.
FP8_32, FP8_64, FP8_128 = 3032, 3064, 3128
# Blocks of 256: int8 numbers [16], the same in all blocks of a matrix; float32 d; an int8 scale for
# each 16 or 32 columns; four-bit codes, 32 columns after the other, the first half of them in the
# low halves of 16 bytes. A weight is d * scale * numbers[code].
CODED_16, CODED_32 = 5016, 5032
# Not rows of blocks, but parts (hqq_parts.py).
HQQ4, HQQ8 = 4004, 4008


class Planes(NamedTuple):
    """How a matrix of N rows in B blocks of 256 columns lies on a GPU (kernels/planes/format.py).

    What a format does not need of `high`, `supers` and `table` is empty.
    """

    low: Tensor  # uint16 [N, B * 256 * bits / 16], or uint8 or int8 [N, B * 256]
    high: Tensor  # uint16 [N, B * 16 * bits]
    scales: Tensor  # [B, N, groups of a block]
    supers: Tensor  # [B, N], or zeros as `scales`
    table: Tensor  # int8 [16]


class PackedMatrix(NamedTuple):
    """`num_rows` by `num_columns` weights of one kind: GGML's or one of the above."""

    kind: int
    num_rows: int
    num_columns: int
    data: Tensor  # uint8: [rows or parts, bytes] or, if tiled, as kernels/cpu/native has it
    is_tiled: bool = False
    planes: Planes | None = None  # on a GPU; `data` is empty then

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        parts = (self.data,) if self.planes is None else self.planes
        return sum(part.nbytes for part in parts)


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
        # HQQ's tiles are multiplied by a function of their own.
        self.is_tiled = all(m.is_tiled and m.kind not in (HQQ4, HQQ8) for m in matrices)
        self.prepared: object = None

    def holds(
        self, matrices: tuple[PackedMatrix, ...], bias: Tensor | None, is_exact: bool
    ) -> bool:
        """Whether it was made of these very objects."""
        return self.matrices is matrices and self.bias is bias and self.is_exact == is_exact


class PackedLayer(NamedTuple):
    """What a decoder layer computes with: `down(act(gate) * up)` of the normalised sum after
    attention of the normalised sum before it.
    """

    input_norm: Tensor  # [I]
    qkv: Projection
    head_norms: tuple[Tensor, Tensor] | None
    output: Projection
    post_norm: Tensor  # [I]
    gate_up: Projection
    down: Projection
    is_gelu: bool
    eps: float  # of all norms
    rotation: int | None  # which of the model's; None: heads are not turned
    scale: float
    window: int
    softcap: float


class PackedStack:
    """The layers of a decoder, one after the other. Not to be changed.

    A kernel keeps in `prepared` what it makes of them, once.
    """

    __slots__ = ("layers", "prepared")

    def __init__(self, layers: Sequence[PackedLayer]) -> None:
        self.layers = tuple(layers)
        self.prepared: object = None
