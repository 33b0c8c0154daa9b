"""Whole sequences, packed one behind the other. Knows no requests."""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """S sequences of T tokens together; sequence s owns the tokens `starts[s]:starts[s + 1]`."""

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, from 0 in each sequence
    type_ids: Tensor  # [T] int64
    starts: Tensor  # [S + 1] int32
    lengths: tuple[int, ...]  # the same on the host


def pack(
    sequences: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]], device: torch.device
) -> Packed:
    """Pack at least one sequence of at least one token; types that are not given are 0."""
    lengths = tuple(map(len, sequences))
    types = (types or [0] * length for types, length in zip(type_ids, lengths, strict=True))
    rows = (
        list(chain.from_iterable(sequences)),
        list(chain.from_iterable(map(range, lengths))),
        list(chain.from_iterable(types)),
    )
    token_ids, positions, kinds = torch.tensor(rows).to(device, non_blocking=True)
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    there = starts.to(device, non_blocking=True)
    return Packed(token_ids, positions, kinds, there, lengths)
