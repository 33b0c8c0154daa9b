"""What a format is that packs a whole matrix, not blocks of its rows. Knows no single format."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class PackedTensor(NamedTuple):
    """A matrix of `shape`: codes, and the scales and zeros that turn them into weights."""

    codes: Tensor  # uint8
    scales: Tensor  # float32
    zeros: Tensor | None  # float32, or None where code 0 is weight 0
    shape: tuple[int, ...]


class TensorFormat(NamedTuple):
    """`quantize` packs finite weights [out, in] of any float dtype; `dequantize` gives float32.

    `num_weights` is what the number of a matrix's weights must be a multiple of. Raises ValueError
    for a matrix that does not fit and for weights that are not finite.
    """

    name: str
    num_weights: int
    quantize: Callable[[Tensor], PackedTensor]
    dequantize: Callable[[PackedTensor], Tensor]
