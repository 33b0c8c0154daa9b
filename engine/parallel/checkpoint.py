"""A process' part of a checkpoint, under the same names. Knows no model."""

import logging
from collections.abc import Iterator, Sequence

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from engine.config import ModelConfig
from engine.parallel.shard import WHOLE, Cut, Shard, cut_of
from engine.weights.checkpoint import Checkpoint, PackedTensor
from kernels.own_kinds import row_kind

log = logging.getLogger(__name__)


class ShardedCheckpoint:
    """Satisfies `Checkpoint`. What stays packed does so where the cuts lie between blocks."""

    def __init__(self, checkpoint: Checkpoint, shard: Shard) -> None:
        """Raises LoadError for a model that cannot be divided so."""
        self._checkpoint = checkpoint
        self._shard = shard
        self.config: ModelConfig = shard.config(checkpoint.config)

    def names(self) -> frozenset[str]:
        """As `Checkpoint` has it."""
        return self._checkpoint.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the part."""
        shape = list(self._checkpoint.shape(name))
        if (cut := self._cut(name)).parts:
            shape[cut.dim] = sum(map(len, cut.parts))
        return tuple(shape)

    def tensor(self, name: str) -> Tensor:
        """As `Checkpoint` has it."""
        return _take(self._checkpoint.tensor(name), self._cut(name), self._shard)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """As `Checkpoint` has it."""
        cut, pieces = self._cut(name), self._checkpoint.pieces(name)
        if cut.parts and cut.dim + len(self._checkpoint.shape(name)) == 0:
            return _rows(pieces, cut.parts)
        return (_take(piece, cut, self._shard) for piece in pieces)

    def packed(self, name: str) -> PackedTensor | None:
        """None as well where a cut goes through blocks: that part is unpacked, with a warning."""
        tensor, cut = self._checkpoint.packed(name), self._cut(name)
        if tensor is None or cut == WHOLE:
            return tensor
        shape = self.shape(name)
        if cut.dim == -2:
            pieces = _whole_parts(tensor, cut)
        elif _is_between_blocks(cut.parts[0], _block_columns(tensor.kind)):
            num_columns = tensor.shape[-1]
            pieces = (_columns(piece, cut.parts[0], num_columns) for piece in tensor.pieces)
        else:
            log.warning(
                "%s is unpacked: its blocks of %d columns do not divide by %d processes",
                *(name, _block_columns(tensor.kind), self._shard.size),
            )
            return None
        return tensor._replace(shape=shape, pieces=pieces)

    def _cut(self, name: str) -> Cut:
        shape = self._checkpoint.shape(name)
        return cut_of(name, shape, self._checkpoint.config, self._shard)


def _take(tensor: Tensor, cut: Cut, shard: Shard) -> Tensor:
    if cut.belongs_to_first:
        return tensor if shard.rank == 0 else torch.zeros_like(tensor)
    if not cut.parts:
        return tensor
    parts = [tensor.narrow(cut.dim, part.start, len(part)) for part in cut.parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts, cut.dim)


def _rows(pieces: Iterator[Tensor], parts: Sequence[range]) -> Iterator[Tensor]:
    """The rows in `parts`, which ascend, of a tensor that comes from the top."""
    start = 0
    for piece in pieces:
        end = start + len(piece)
        for part in parts:
            first, last = max(part.start, start), min(part.stop, end)
            if first < last:
                yield piece[first - start : last - start]
        start = end


def _whole_parts(tensor: PackedTensor, cut: Cut) -> Iterator[Tensor]:
    """The rows of a matrix, or of each of a stack, in one piece: kernels want steps of a tile."""
    if len(tensor.shape) == 3:
        for piece in tensor.pieces:
            yield torch.cat([piece[part.start : part.stop] for part in cut.parts])
    else:
        # A piece is valid until the next: what is kept of it is copied.
        yield torch.cat([rows.clone() for rows in _rows(tensor.pieces, cut.parts)])


def _columns(rows: Tensor, part: range, num_columns: int) -> Tensor:
    """The columns in `part` of rows of blocks, uint8 [R, bytes]."""
    num_bytes = rows.shape[1]
    first, last = (num_bytes * end // num_columns for end in (part.start, part.stop))
    return rows[:, first:last].contiguous()


def _is_between_blocks(part: range, size: int) -> bool:
    return part.start % size == part.stop % size == 0


def _block_columns(kind: int) -> int:
    own = row_kind(kind)
    return own.num_weights if own else GGML_QUANT_SIZES[GGMLQuantizationType(kind)][0]
