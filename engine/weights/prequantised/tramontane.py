"""What `tramontane quantize` writes: a matrix is a uint8 tensor of its rows in blocks.

It has the name of the plain one; quantization_config says in which blocks its rows are
(engine/quant/stored_rows.py). Stacked matrices are [..., rows, bytes].
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.quant.stored_rows import STORED_ROWS, StoredRows
from engine.weights.prequantised.config import Tramontane
from engine.weights.prequantised.parts import Parts, damaged
from engine.weights.safetensors import SafetensorsCheckpoint

_WORD = "weight"


class StoredMatrix:
    """A matrix, or several stacked, whose bytes are in the file as they are in memory."""

    reason = ""  # why there is no kind: there always is one

    def __init__(self, stored: SafetensorsCheckpoint, name: str, rows: StoredRows) -> None:
        """Raises LoadError if its rows are no whole number of blocks."""
        self._stored, self._name, self._rows = stored, name, rows
        *before, num_bytes = stored.shape(name)
        if not num_bytes or num_bytes % rows.num_bytes:
            raise damaged(
                {_WORD: name},
                _WORD,
                f"has rows of {num_bytes} bytes, no whole number of {rows.name} blocks "
                f"({rows.num_bytes})",
            )
        self.shape = (*before, num_bytes // rows.num_bytes * rows.num_weights)

    @property
    def kind(self) -> int:
        """What config.json says."""
        return self._rows.kind

    def pieces(self) -> Iterator[Tensor]:
        """The weights, float32, some rows at a time."""
        for piece in self._stored.pieces(self._name):
            yield self._rows.dequantize(piece)

    def packed_rows(self) -> Iterator[Tensor]:
        """The rows in blocks, as they lie in the file; of a stack, one matrix after another."""
        if len(self.shape) == 2:
            yield from self._stored.packed_rows(self._name)
            return
        for stack in self._stored.pieces(self._name):
            yield from stack.flatten(0, -3)


class TramontaneLayout:
    """How such a checkpoint's matrices lie in it."""

    def __init__(self, stored: SafetensorsCheckpoint, config: Tramontane) -> None:
        """Raises LoadError for blocks that are not known."""
        self._stored = stored
        self._config = config
        for name in (config.type, *config.others.values()):
            if name not in STORED_ROWS:
                raise LoadError(
                    f"The checkpoint has matrices in {name}, which this version does not know; "
                    "quantise the model again."
                )

    def find(self) -> dict[str, Parts]:
        """Matrices of bytes: plain weights are floats."""
        return {
            name: {_WORD: name}
            for name in sorted(self._stored.names())
            if len(self._stored.shape(name)) > 1 and self._stored.tensor(name).dtype == torch.uint8
        }

    def matrix(self, parts: Parts) -> StoredMatrix:
        """Raises LoadError if the tensor is not in the blocks that it is said to be in."""
        name = parts[_WORD]
        rows = STORED_ROWS[self._config.others.get(name, self._config.type)]
        return StoredMatrix(self._stored, name, rows)


open_layout = TramontaneLayout
