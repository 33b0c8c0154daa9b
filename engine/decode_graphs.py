"""The decode step as graphs, one for each of some batch sizes. Knows row state, no sequences.

A graph has all of it: from the rows' state to the next ids, which go into that state again. So the
same rows decode a token with each replay, and nothing has to come from the host.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engine.batch import Batch, Int64
from engine.capacity import Capacity
from engine.graph_device import GraphDevice
from engine.kv_cache import KVCache
from engine.row_state import RowState
from engine.runner import Model
from kernels import ops

logger = logging.getLogger(__name__)


def bucket_sizes(max_seqs: int) -> list[int]:
    """The batch sizes that have a graph: padding is at most a half of few, and little of many."""
    return [*_sizes_below(max_seqs), max_seqs]


def _sizes_below(max_seqs: int) -> Iterator[int]:
    size = 1
    while size < max_seqs:
        yield size
        size += size if size < 8 else 8 if size < 256 else 16


class DecodeGraphs:
    """Graphs over a row state and a KV cache. `capture` goes before the first `launch`.

    `ids` [max_seqs] int64 and `logits` [max_seqs, V] float32 have what the last launch made; the
    next one writes over them.
    """

    def __init__(
        self,
        kv_cache: KVCache,
        capacity: Capacity,
        max_seqs: int,
        vocab_size: int,
        device: GraphDevice,
        *,
        has_rope_sets: bool,
    ) -> None:
        """`kv_cache` must stay where it is; `capacity` says how long its sequences can be."""
        num_columns = -(-capacity.context_length // capacity.block_size)
        self.state = RowState(max_seqs, num_columns, device.device, device.upload)
        self.ids = torch.zeros(max_seqs, dtype=torch.int64, device=device.device)
        self.logits = torch.zeros(max_seqs, vocab_size, device=device.device)
        self._kv_cache, self._block_size = kv_cache, capacity.block_size
        self._has_rope_sets = has_rope_sets
        self._device = device
        self._rows = torch.full((max_seqs,), self.state.dummy, device=device.device)
        self._shown = np.full(max_seqs, self.state.dummy)  # what is in `_rows`
        self._starts = torch.arange(max_seqs + 1, dtype=torch.int32, device=device.device)
        self._places = torch.arange(max_seqs, device=device.device)
        self._sizes = np.array(bucket_sizes(max_seqs))
        self._replays: dict[int, Callable[[], None]] = {}

    @torch.inference_mode()
    def capture(self, model: Model, num_sizes: int = 0) -> None:
        """Capture a model's graphs, the largest first; what they take is the largest one's.

        `num_sizes`: only so many, to see what they take. No step may be in flight.
        """
        self._show(np.empty(0, np.int64))
        for size in self._sizes[::-1][: num_sizes or None].tolist():
            self._replays[size] = self._device.capture(partial(self._decode, model, size))

    def capture_all(self, model: Model) -> None:
        """`capture`, with a line in the log."""
        start_s, start_bytes = time.monotonic(), self._device.used_bytes()
        self.capture(model)
        logger.info(
            "the decode step is captured for %d batch sizes up to %d, in %.1f s and %d MB",
            len(self._sizes),
            self._sizes[-1],
            time.monotonic() - start_s,
            (self._device.used_bytes() - start_bytes) // 1_000_000,
        )

    def forget(self) -> None:
        """Let go of all graphs and their memory."""
        self._replays.clear()
        self._device.forget()

    def launch(self, rows: Int64) -> None:
        """Decode a token for each of `rows` [N], N at least 1. Does not wait for it."""
        self._show(rows)
        self._replays[int(self._sizes[self._sizes.searchsorted(len(rows))])]()

    def _show(self, rows: Int64) -> None:
        """Have the device know which rows come next, unless it does."""
        wanted = np.full_like(self._shown, self.state.dummy)
        wanted[: len(rows)] = rows
        if not np.array_equal(wanted, self._shown):
            self._rows.copy_(self._device.upload(wanted))
            self._shown = wanted

    def take(self, ids: Tensor) -> None:
        """Put others in the place of the ids [N] that the last launch made."""
        self.state.take(self._rows[: len(ids)], ids)

    def _decode(self, model: Model, size: int) -> None:
        """What is captured: reads and writes nothing but tensors that stay where they are."""
        state, rows = self.state, self._rows[:size]
        numbers = state.numbers.index_select(1, rows)
        last_ids, lengths, rope_sets, seeds, choices, top_k = numbers
        temperatures, top_p, min_p = state.filters.index_select(1, rows)
        batch = self._batch(rows, last_ids, lengths, rope_sets)
        logits = self.logits[:size]
        logits.copy_(model.logits(model.forward(batch, self._kv_cache)))
        keys = (seeds, choices, lengths + 1)
        ids = ops.sample(logits, temperatures, top_k, top_p, min_p, *keys)
        self.ids[:size].copy_(ids)
        state.advance(rows, ids, lengths)

    def _batch(self, rows: Tensor, last_ids: Tensor, lengths: Tensor, rope_sets: Tensor) -> Batch:
        """A row of padding has a length of 0 and no slot."""
        size, block_size = len(rows), self._block_size
        is_real = rows < self.state.dummy
        tables = self.state.tables.index_select(0, rows)
        blocks = tables.gather(1, (lengths // block_size)[:, None])[:, 0].long()
        slots = torch.where(is_real, blocks * block_size + lengths % block_size, -1)
        return Batch(
            token_ids=last_ids,
            positions=lengths,
            slots=slots,
            block_tables=tables,
            query_starts=self._starts[: size + 1],
            context_lengths=(lengths + is_real).int(),
            logits_indices=self._places[:size],
            rope_sets=rope_sets if self._has_rope_sets else None,
        )
