"""What the device knows of each running sequence, a row each, so that it can decode by itself.

Knows no step and no model.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.batch import Int32, Int64
from engine.sampler import Records

# The lines of `RowState.numbers` and `RowState.filters`.
NUMBERS = ("last_id", "length", "rope_set", "seed", "choice", "top_k")
FILTERS = ("temperature", "top_p", "min_p")
_LAST_ID, _LENGTH, _FIRST_SETTING = range(3)

Upload = Callable[[NDArray[Any]], Tensor]


class RowState:
    """Tables of a row for each sequence, and one more, the dummy, for padding: it has no tokens.

    `numbers` [6, R + 1] int64 and `filters` [3, R + 1] float32 have a line for each name above.
    `length` counts the tokens whose keys and values are there, and `last_id` is the token behind
    them. `tables` [R + 1, M] int32 are the block tables. All are written in place: a captured graph
    reads them where they are.
    """

    def __init__(
        self, max_seqs: int, num_columns: int, device: torch.device, upload: Upload
    ) -> None:
        """`upload` copies an array to the device without waiting for it."""
        self.dummy = max_seqs
        self._upload = upload
        self.numbers = torch.zeros(len(NUMBERS), max_seqs + 1, dtype=torch.int64, device=device)
        self.filters = torch.zeros(len(FILTERS), max_seqs + 1, device=device)
        self.tables = torch.zeros(max_seqs + 1, num_columns, dtype=torch.int32, device=device)

    def admit(self, rows: Int64, settings: Records, rope_sets: Int64, tables: Int32) -> None:
        """Set rows [K] whose sequences are new there: `settings` [K], `tables` [K, M]."""
        given = (settings[name] for name in NUMBERS[_FIRST_SETTING + 1 :])
        numbers = self._upload(np.stack([rows, rope_sets, *given]))
        where = numbers[0]
        self.numbers[_FIRST_SETTING:].index_copy_(1, where, numbers[1:])
        filters = self._upload(np.stack([settings[name] for name in FILTERS]))
        self.filters.index_copy_(1, where, filters)
        self.tables.index_copy_(0, where, self._upload(tables))

    def extend(self, rows: list[int], columns: list[int], blocks: list[int]) -> None:
        """Add a block to each of some rows' tables."""
        where, column, block = self._upload(np.array([rows, columns, blocks], dtype=np.int64))
        self.tables.index_put_((where, column), block.int())

    def stand(self, rows: Int64, last_ids: Int64, lengths: Int64) -> None:
        """Say where the sequences in rows [K] stand."""
        numbers = self._upload(np.stack([rows, last_ids, lengths]))
        self.numbers[:_FIRST_SETTING].index_copy_(1, numbers[0], numbers[1:])

    def take(self, rows: Tensor, ids: Tensor) -> None:
        """The last ids [K] of rows [K], both on the device."""
        self.numbers[_LAST_ID].index_copy_(0, rows, ids)

    def advance(self, rows: Tensor, ids: Tensor, lengths: Tensor) -> None:
        """Go on by a token: `ids` [K] behind `lengths` [K] tokens. The dummy stays as it is."""
        is_real = rows < self.dummy
        # Of a row of padding nothing is known, not even that its id is one.
        self.take(rows, torch.where(is_real, ids, 0))
        self.numbers[_LENGTH].index_copy_(0, rows, lengths + is_real)
