"""Attention of whole sequences side by side, without a cache: the truth for its kernels."""

import itertools

import torch
from torch import Tensor


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float, window: int = 0
) -> Tensor:
    """Every token sees all tokens of its sequence, those behind it too, and none of the others.

    query: [T, Hq, D]; key, value: [T, Hkv, D], with Hq a multiple of Hkv; starts: [S + 1] int32,
    sequence s owns rows `starts[s]:starts[s + 1]`, and may have none. With `window` w > 0 a token
    sees itself and the w before and behind it. float32 inside; returns [T, Hq, D].
    """
    output = torch.empty_like(query)
    bounds = starts.tolist()
    for begin, end in itertools.pairwise(bounds):
        rows = slice(begin, end)
        output[rows] = _attend(query[rows], key[rows], value[rows], scale, window)
    return output


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int) -> Tensor:
    num_groups = query.shape[1] // key.shape[1]
    key = key.float().repeat_interleave(num_groups, dim=1)
    value = value.float().repeat_interleave(num_groups, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query.float(), key) * scale
    if window > 0:
        place = torch.arange(len(query), device=query.device)
        is_far = (place[:, None] - place).abs() > window
        scores = scores.masked_fill(is_far, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).to(query.dtype)
