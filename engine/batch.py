"""The tensors of one step, built from its sequences. Knows positions and slots, no model."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.scheduler import Step
from engine.sequence import Sequence

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


class Batch(NamedTuple):
    """One step's input.

    It has S sequences, T tokens, M block table columns, and S' rows whose logits are wanted.
    Sequence s owns the tokens `query_starts[s]:query_starts[s + 1]`; they are the last of its
    `context_lengths[s]` tokens. A slot is `block * block_size + offset`; -1 means that the token's
    KV is not kept. `rope_sets` is None where all tokens have the model's first set of frequencies.
    """

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    slots: Tensor  # [T] int64
    block_tables: Tensor  # [S, M] int32
    query_starts: Tensor  # [S + 1] int32
    context_lengths: Tensor  # [S] int32
    logits_indices: Tensor  # [S'] int64
    rope_sets: Tensor | None = None  # [T] int64


class SampledRows(NamedTuple):
    """Whose the rows of logits are."""

    rows: Int64  # [S'], the sequence's row in per-sequence tables
    positions: Int64  # [S'], of the new token


class BlockTables:
    """The block tables of running sequences as arrays, a row each."""

    def __init__(self, max_seqs: int, num_columns: int, block_size: int) -> None:
        self.block_size = block_size
        self._blocks = np.zeros((max_seqs, num_columns), dtype=np.int32)
        # What to add to a position to get its slot: one gather and one sum a token.
        self._shifts = np.zeros((max_seqs, num_columns), dtype=np.int64)

    def update(self, step: Step) -> None:
        """Take in what the step's allocations changed."""
        for sequence in step.admitted:
            self._write(sequence, 0)
        for sequence in step.extended:
            self._write(sequence, len(sequence.blocks) - 1)

    def _write(self, sequence: Sequence, first: int) -> None:
        end = len(sequence.blocks)
        blocks = np.array(sequence.blocks[first:], dtype=np.int64)
        self._blocks[sequence.row, first:end] = blocks
        self._shifts[sequence.row, first:end] = (blocks - np.arange(first, end)) * self.block_size

    def of(self, rows: Int64, num_tokens: int) -> Int32:
        """The block tables of `rows`, as many columns as `num_tokens` need."""
        return self._blocks[:, : -(-num_tokens // self.block_size)].take(rows, axis=0)

    def whole(self, rows: Int64) -> Int32:
        """The block tables of `rows`, all columns."""
        return self._blocks[rows]

    def slots(self, rows: Int64, positions: Int64) -> Int64:
        """Where the token at each position of the sequence in each row lies."""
        return self._shifts[rows, positions // self.block_size] + positions


class _Layout(NamedTuple):
    """Where a step's T tokens, S sequences and S' samples lie."""

    token_ids: Int64  # [T]
    token_rows: Int64  # [T], the sequence's row in the block tables
    positions: Int64  # [T]
    starts: Int32  # [S + 1]
    lengths: Int64  # [S]
    last: Int64  # [S'], the tokens to sample after
    sampled: SampledRows


class BatchBuilder:
    """Turns steps into batches. Keeps the block tables of running sequences from step to step."""

    def __init__(
        self,
        max_seqs: int,
        max_model_len: int,
        block_size: int,
        device: torch.device,
        *,
        has_rope_sets: bool = False,
    ) -> None:
        self.device = device
        self._has_rope_sets = has_rope_sets
        self.tables = BlockTables(max_seqs, -(-max_model_len // block_size), block_size)
        self._counting = np.arange(max_seqs + 1, dtype=np.int64)
        self._counting_small = self._counting.astype(np.int32)

    def note(self, step: Step) -> None:
        """Take in the blocks of a step whose batch is built elsewhere."""
        self.tables.update(step)

    def build(self, step: Step) -> tuple[Batch, SampledRows]:
        """The batch of a step that has at least one sequence. On CPU it is valid until the next."""
        self.tables.update(step)
        rows = _int64([sequence.row for sequence in step.sequences])
        computed = _int64([sequence.num_computed for sequence in step.sequences])
        lay_out = self._lay_out_decode if step.is_decode else _lay_out
        layout = lay_out(step, rows, computed)
        slots = self.tables.slots(layout.token_rows, layout.positions)
        tables = self.tables.of(rows, int(layout.lengths.max()))
        wide = (layout.token_ids, layout.positions, slots, layout.last, *self._rope_sets(step))
        narrow = (tables, layout.starts, layout.lengths.astype(np.int32))
        token_ids, positions, slots_there, last, *sets = self._to_device(wide)
        block_tables, starts, lengths = self._to_device(narrow)
        batch = Batch(token_ids, positions, slots_there, block_tables, starts, lengths, last, *sets)
        return batch, layout.sampled

    def _rope_sets(self, step: Step) -> tuple[Int64, ...]:
        """One row [T], or none for a model that has no sets to choose from."""
        if not self._has_rope_sets:
            return ()
        sets = _int64([sequence.rope_set for sequence in step.sequences])
        return (np.repeat(sets, _int64(step.num_tokens)),)

    def _lay_out_decode(self, step: Step, rows: Int64, computed: Int64) -> _Layout:
        """The layout where every sequence has one token and samples after it."""
        lengths = computed + 1
        return _Layout(
            token_ids=_int64([sequence.token_ids[-1] for sequence in step.sequences]),
            token_rows=rows,
            positions=computed,
            starts=self._counting_small[: len(rows) + 1],
            lengths=lengths,
            last=self._counting[: len(rows)],
            sampled=SampledRows(rows, lengths),
        )

    def _to_device(self, arrays: tuple[NDArray[np.signedinteger], ...]) -> list[Tensor]:
        if self.device.type == "cpu":
            return [torch.from_numpy(values) for values in arrays]
        return as_one_copy(arrays, self.device)


def as_one_copy(
    arrays: tuple[NDArray[np.signedinteger], ...], device: torch.device
) -> list[Tensor]:
    """Tensors on `device` of these arrays, all of one dtype. Parts of one tensor: one transfer."""
    packed = torch.from_numpy(np.concatenate([values.ravel() for values in arrays]))
    parts = torch.split(packed.to(device), [values.size for values in arrays])
    return [part.view(values.shape) for part, values in zip(parts, arrays, strict=True)]


def _lay_out(step: Step, rows: Int64, computed: Int64) -> _Layout:
    """The layout of any step."""
    counts, sampled = _int64(step.num_tokens), _int64(step.sampled)
    starts = np.concatenate(([0], counts)).cumsum()
    lengths = computed + counts
    return _Layout(
        token_ids=np.concatenate([_next_tokens(*pair) for pair in step.items()], dtype=np.int64),
        token_rows=np.repeat(rows, counts),
        # A token's index in the batch, moved to where its sequence's tokens begin.
        positions=np.arange(starts[-1]) + np.repeat(computed - starts[:-1], counts),
        starts=starts.astype(np.int32),
        lengths=lengths,
        last=starts[1:][sampled] - 1,
        sampled=SampledRows(rows[sampled], lengths[sampled]),
    )


def _next_tokens(sequence: Sequence, count: int) -> Int32:
    first = sequence.num_computed
    return np.frombuffer(sequence.token_ids[first : first + count], dtype=np.intc)


def _int64(values: list[int]) -> Int64:
    return np.array(values, dtype=np.int64)
