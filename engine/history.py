"""What a sequence's own tokens do to its next logits: DRY, and words that must not be completed.

Knows ids and one row of logits, no batch. DRY ("don't repeat yourself") is p-e-w's, as
text-generation-webui and llama.cpp have it: a token that would prolong a repetition of at least
`allowed_length` tokens loses `multiplier * base ** (length - allowed_length)`.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import DryParams

# A longer repetition costs no more: with the usual base the penalty is beyond any logit by then.
MAX_LENGTH = 128


def penalize_repetition(logits: Tensor, token_ids: "array[int]", dry: DryParams) -> None:
    """Apply DRY to the row `logits` [V], in place. `token_ids` are prompt and output."""
    lengths = repetitions(np.frombuffer(token_ids, dtype=np.intc), dry.breaker_ids)
    penalties = {
        token_id: dry.multiplier * dry.base ** (length - dry.allowed_length)
        for token_id, length in lengths.items()
        if length >= dry.allowed_length
    }
    if penalties:  # all at once: a GPU is told of each operation
        ids = torch.tensor(list(penalties)).to(logits.device, non_blocking=True)
        values = torch.tensor(list(penalties.values()), dtype=torch.float64).float()
        logits[ids] -= values.to(logits.device, non_blocking=True)


def repetitions(tokens: NDArray[np.int32], breaker_ids: Sequence[int]) -> dict[int, int]:
    """For each token that came after an earlier copy of the end of `tokens`: that copy's length.

    The longest if there are several. A copy reaches back to a breaker at most, without it.
    """
    end = len(tokens) - 1
    reach = _reach(tokens[-MAX_LENGTH:], breaker_ids)
    places = np.flatnonzero(tokens[:end] == tokens[end]) if reach else np.empty(0, np.int64)
    lengths: dict[int, int] = {}
    for length in range(1, reach + 1):
        places = places[places >= length - 1]
        places = places[tokens[places - (length - 1)] == tokens[end - (length - 1)]]
        if not places.size:
            break
        lengths.update(dict.fromkeys(tokens[places + 1].tolist(), length))
    return lengths


def _reach(tail: NDArray[np.int32], breaker_ids: Sequence[int]) -> int:
    """How many tokens of `tail` are behind its last breaker."""
    breaks = np.flatnonzero(np.isin(tail, np.asarray(breaker_ids, dtype=np.int32)))
    return len(tail) - (int(breaks[-1]) + 1 if breaks.size else 0)


def forbidden_ids(output_ids: Sequence[int], words: Sequence[Sequence[int]]) -> list[int]:
    """The last ids of those `words` (as ids, none empty) that the output would complete."""
    return [word[-1] for word in words if _ends_with(output_ids, word[:-1])]


def _ends_with(output_ids: Sequence[int], ids: Sequence[int]) -> bool:
    return not ids or list(output_ids[-len(ids) :]) == list(ids)
