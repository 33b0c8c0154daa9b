"""A checkpoint some of whose matrices are quantised as they are read. Knows no model.

To its reader they are as a file in those formats would have them, so what loads them need not know.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.quant.memory_form import MemoryForm, memory_form
from engine.quant.registry import Format
from engine.quant.row_format import RowFormat
from engine.weights.checkpoint import Checkpoint, PackedTensor
from kernels.packing import PIECE_ROWS

Rows = tuple[Tensor, Tensor | None]  # weights [R, C], importance [C]


class Change(NamedTuple):
    """What a matrix, or a stack of experts' matrices, becomes.

    `importance` is [C], or [experts, C] of a stack.
    """

    format: Format
    importance: Tensor | None = None


class QuantisedCheckpoint:
    """The tensors of `checkpoint`, those of `changes` in formats of their own.

    Raises LoadError, as the checkpoint does, and for weights that cannot be quantised.
    """

    def __init__(self, checkpoint: Checkpoint, changes: Mapping[str, Change]) -> None:
        self._checkpoint = checkpoint
        self._changes = changes

    @property
    def config(self) -> ModelConfig:
        """As the checkpoint has it."""
        return self._checkpoint.config

    def names(self) -> frozenset[str]:
        """As the checkpoint has them."""
        return self._checkpoint.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """As the checkpoint has it."""
        return self._checkpoint.shape(name)

    def tensor(self, name: str) -> Tensor:
        """All pieces."""
        if name not in self._changes:
            return self._checkpoint.tensor(name)
        return torch.cat([piece.clone() for piece in self.pieces(name)])

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A quantised matrix as float32, with the values that its format makes of the weights."""
        change = self._changes.get(name)
        if change is None or self._is_kept(name, change):
            return self._checkpoint.pieces(name)
        return self._rounded(name, change)

    def packed(self, name: str) -> PackedTensor | None:
        """A quantised matrix in blocks; a stack of experts' is in one piece for each of them.

        One that the file has in this format already is as it is.
        """
        change = self._changes.get(name)
        if change is None or self._is_kept(name, change):
            return self._checkpoint.packed(name)
        shape = self.shape(name)
        form = memory_form(change.format, *shape[-2:])
        if form is None:
            return None
        pieces = self._blocks(name, change, form)
        if len(shape) == 2 and not form.is_whole:
            pieces = _by_tiles(pieces)
        return PackedTensor(form.kind, shape, pieces, must_stay=True)

    def _is_kept(self, name: str, change: Change) -> bool:
        return is_kept(self._checkpoint, name, change.format)

    def _blocks(self, name: str, change: Change, form: MemoryForm) -> Iterator[Tensor]:
        if len(self.shape(name)) == 3:
            for weights, importance in self._experts(name, change.importance):
                with _naming(name):
                    blocks = form.pack_for([weights])(weights, importance)
                yield blocks
            return
        with _naming(name):
            pack = form.pack_for(self._checkpoint.pieces(name))
        for weights in self._pieces(name, form.is_whole):
            with _naming(name):
                blocks = pack(weights, change.importance)
            yield blocks

    def _pieces(self, name: str, is_whole: bool) -> Iterator[Tensor]:
        if is_whole:
            yield self._checkpoint.tensor(name)
        else:
            yield from self._checkpoint.pieces(name)

    def _rounded(self, name: str, change: Change) -> Iterator[Tensor]:
        is_stack = len(self.shape(name)) == 3
        round_trip = _round_trip(change.format)
        for weights, importance in self._rows(name, change):
            with _naming(name):
                values = round_trip(weights, importance)
            yield values[None] if is_stack else values

    def _rows(self, name: str, change: Change) -> Iterator[Rows]:
        """What a format rounds at a time: some rows, or a matrix; of a stack, one expert's."""
        if len(self.shape(name)) == 3:
            yield from self._experts(name, change.importance)
        else:
            for rows in self._pieces(name, not isinstance(change.format, RowFormat)):
                yield rows, change.importance

    def _experts(self, name: str, importance: Tensor | None) -> Iterator[Rows]:
        every = (weights for some in self._checkpoint.pieces(name) for weights in some)
        for expert, weights in enumerate(every):
            if importance is None or importance.dim() == 1:
                yield weights, importance
            else:
                yield weights, importance[expert]


def is_kept(checkpoint: Checkpoint, name: str, format: Format) -> bool:
    """Whether the file has the matrix `name` in this format already."""
    stored = checkpoint.packed(name)
    form = memory_form(format, *checkpoint.shape(name)[-2:])
    return stored is not None and form is not None and stored.kind == form.kind


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise LoadError(f"{name} cannot be quantised: {error}.") from error


def _by_tiles(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same rows in pieces of a multiple of PIECE_ROWS, but for the last."""
    rest: Tensor | None = None
    for piece in pieces:
        rows = piece if rest is None else torch.cat([rest, piece])
        end = len(rows) - len(rows) % PIECE_ROWS
        if end:
            yield rows[:end]
        rest = rows[end:] if end < len(rows) else None
    if rest is not None:
        yield rest


def _round_trip(format: Format) -> Callable[[Tensor, Tensor | None], Tensor]:
    if isinstance(format, RowFormat):
        return lambda weights, matters: format.dequantize(format.quantize(weights, matters))
    return lambda weights, _: format.dequantize(format.quantize(weights))
