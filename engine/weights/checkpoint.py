"""A model's tensors under Hugging Face names, whatever file they are in. Knows no model."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from engine.config import ModelConfig
from engine.weights.files import ModelFiles


class PackedTensor(NamedTuple):
    """A matrix in rows of blocks, of a `kind` of kernels/packed.py, or F16 or BF16.

    A stack of matrices has a piece for each of them. If it `must_stay` packed, it does even where
    there are no kernels for its kind.
    """

    kind: int
    shape: tuple[int, ...]
    pieces: Iterator[Tensor]  # uint8 [rows, bytes] from the top, each valid until the next
    must_stay: bool = False


class Checkpoint(Protocol):
    """Tensors by name, read when asked for. No more than the latest stays in memory.

    Each method raises LoadError naming a tensor that is not there or cannot be read.
    """

    @property
    def config(self) -> ModelConfig:
        """The model's shape, checked."""

    def names(self) -> frozenset[str]:
        """The tensors there are."""

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""

    def tensor(self, name: str) -> Tensor:
        """One tensor on the CPU, in the dtype that the file stores or, if packed, float32.

        To be read, not written, and before the next call.
        """

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The same tensor, some rows of its first dimension at a time, from the top.

        Each piece is valid until the next is asked for. So a large tensor is never in memory twice.
        """

    def packed(self, name: str) -> PackedTensor | None:
        """The tensor as it is stored, if that is a matrix in rows of blocks, F16 or BF16."""


def open_checkpoint(files: ModelFiles) -> Checkpoint:
    """Open a model's files, and read and check its configuration. Raises LoadError."""
    if files.kind == "gguf":
        from engine.weights.gguf import GgufCheckpoint

        return GgufCheckpoint(files)
    if files.kind == "ggml":
        from engine.weights.ggml import GgmlCheckpoint

        return GgmlCheckpoint(files)
    from engine.weights.prequantised.config import read_method
    from engine.weights.safetensors import SafetensorsCheckpoint

    if (method := read_method(files.directory)) is not None:
        from engine.weights.prequantised.checkpoint import PrequantisedCheckpoint

        return PrequantisedCheckpoint(files, method)
    return SafetensorsCheckpoint(files)
