"""How often each running sequence has used each token, on the device, for those that ask."""

from array import array

import numpy as np
import torch
from torch import Tensor


class TokenCounts:
    """Tables of one row per running sequence.

    `counts` [R, V] is of generated tokens, `seen` [R, V] of prompt and output. They cost five bytes
    per row and token of the vocabulary, and are made when the first sequence needs them.
    """

    def __init__(self, max_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._shape = (max_seqs, vocab_size)
        self._device = device
        self._counts: Tensor | None = None
        self._seen: Tensor | None = None

    def _tables(self) -> tuple[Tensor, Tensor]:
        if self._counts is None or self._seen is None:
            self._counts = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
            self._seen = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
        return self._counts, self._seen

    def start(self, row: int, token_ids: "array[int]", num_prompt_tokens: int) -> None:
        """Begin a row anew with a sequence's tokens."""
        counts, seen = self._tables()
        numbers = torch.from_numpy(np.array(token_ids, dtype=np.int64))
        ids = numbers.to(self._device, non_blocking=True)
        made = ids[num_prompt_tokens:]
        counts[row] = 0
        # Not bincount: it waits for the device to learn how long its result is.
        counts[row].index_add_(0, made, torch.ones_like(made, dtype=torch.int32))
        seen[row] = False
        seen[row, ids] = True

    def add(self, rows: Tensor, token_ids: Tensor) -> None:
        """Count one new token [R] for each of `rows` [R]."""
        counts, seen = self._tables()
        counts[rows, token_ids] += 1
        seen[rows, token_ids] = True

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The (counts, seen) of `rows`."""
        counts, seen = self._tables()
        return counts[rows], seen[rows]
