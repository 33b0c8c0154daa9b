"""Tensors of a GGUF or GGML file under Hugging Face names. Knows what both have in common."""

from collections.abc import Iterator, Mapping

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.checkpoint import PackedTensor
from engine.weights.tensor_reader import Place, TensorReader

PLAIN_DTYPES = {
    GGMLQuantizationType.F64: torch.float64,
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.I64: torch.int64,
    GGMLQuantizationType.I32: torch.int32,
    GGMLQuantizationType.I16: torch.int16,
    GGMLQuantizationType.I8: torch.int8,
}


class GgmlTensors:
    """Tensors by Hugging Face name; `file` is what errors call the file they are in.

    If `is_permuted`, query and key rows lie in the order of Meta's own rotary.
    """

    def __init__(
        self, places: Mapping[str, Place], file: str, config: ModelConfig, *, is_permuted: bool
    ) -> None:
        self.config = config
        self._places = places
        self._file = file
        self._is_permuted = is_permuted
        self._reader = TensorReader()

    def names(self) -> frozenset[str]:
        """The tensors there are, by Hugging Face name; one without such a name keeps its own."""
        return frozenset(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises LoadError if it is not there."""
        return self._place(name).shape

    def tensor(self, name: str) -> Tensor:
        """One tensor, packed types as float32. Raises LoadError if it is not there."""
        tensor = self._reader.tensor(self._place(name))
        num_heads = self._heads_in_pairs(name)
        return tensor if num_heads is None else _halves(tensor, num_heads)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The same, some rows at a time. Raises LoadError if it is not there."""
        if self._heads_in_pairs(name) is not None:
            return iter((self.tensor(name),))
        return self._reader.pieces(self._place(name))

    def packed(self, name: str) -> PackedTensor | None:
        """The blocks or floats of a matrix. Raises LoadError if it is not there."""
        place = self._place(name)
        if (kind := place.packed_kind()) is None:
            return None
        rows = self._reader.packed_rows(place)
        if (num_heads := self._heads_in_pairs(name)) is not None:
            rows = _whole(rows, num_heads)
        return PackedTensor(kind, place.shape, rows)

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise LoadError(f"{self._file} has no tensor {name}.")
        return self._places[name]

    def _heads_in_pairs(self, name: str) -> int | None:
        if self._is_permuted and ".self_attn.q_proj." in name:
            return self.config.num_heads
        if self._is_permuted and ".self_attn.k_proj." in name:
            return self.config.num_kv_heads
        return None


def _whole(pieces: Iterator[Tensor], num_heads: int) -> Iterator[Tensor]:
    """All rows in one piece, when it is asked for, in the order of `_halves`."""
    yield _halves(torch.cat([piece.clone() for piece in pieces]), num_heads)


def _halves(rows: Tensor, num_heads: int) -> Tensor:
    """Rows of each head from adjacent pairs to two halves, as `kernels.ops.rotary` has them."""
    if not rows.numel() or not rows.dim() or len(rows) % (2 * num_heads):  # the loader refuses it
        return rows
    pairs = rows.reshape(num_heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
