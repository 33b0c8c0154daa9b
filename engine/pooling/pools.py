"""One vector out of the states of each sequence (sentence-transformers' Pooling module)."""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.encoders.batch import Packed
from engine.pooling.recipe import Pooling


def pool(hidden: Tensor, batch: Packed, pooling: Pooling) -> Tensor:
    """States [T, H] to [S, H] float32; every sequence has a token."""
    return _POOLS[pooling](hidden, batch)


def _cls(hidden: Tensor, batch: Packed) -> Tensor:
    return hidden[batch.starts[:-1].long()].float()


def _last(hidden: Tensor, batch: Packed) -> Tensor:
    return hidden[batch.starts[1:].long() - 1].float()


def _max(hidden: Tensor, batch: Packed) -> Tensor:
    return torch.segment_reduce(hidden.float(), "max", lengths=_lengths(batch), unsafe=True)


def _sum(states: Tensor, batch: Packed) -> Tensor:
    return torch.segment_reduce(states, "sum", lengths=_lengths(batch), unsafe=True)


def _mean(hidden: Tensor, batch: Packed) -> Tensor:
    return _sum(hidden.float(), batch) / _lengths(batch)[:, None]


def _mean_sqrt_len(hidden: Tensor, batch: Packed) -> Tensor:
    return _sum(hidden.float(), batch) / _lengths(batch)[:, None].float().sqrt()


def _weighted_mean(hidden: Tensor, batch: Packed) -> Tensor:
    """A token weighs as much as the number of its place, from 1."""
    weights = batch.positions[:, None].float() + 1.0
    return _sum(hidden.float() * weights, batch) / _sum(weights, batch)


def _lengths(batch: Packed) -> Tensor:
    return batch.starts.long().diff()


_POOLS: dict[Pooling, Callable[[Tensor, Packed], Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
