"""Causal attention over a paged KV cache, a sequence at a time: the truth for its kernels."""

import torch
from torch import Tensor


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Attention of a mixed batch of prefill chunks and decode rows (arXiv 2309.06180).

    query: [T, Hq, D]; key_cache, value_cache: [N, B, Hkv, D], with Hq a multiple of Hkv;
    block_tables: [S, M] int32; query_starts: [S + 1] int32; context_lengths: [S] int32.
    Sequence s owns query rows `query_starts[s]:query_starts[s + 1]`. They are its last tokens, and
    `context_lengths[s]` counts all its tokens, those rows included, already in the cache.
    A token sees itself and those before it; with `window` w > 0, itself and the w - 1 before it.
    `softcap` c > 0 bounds the scores to `c * tanh(score / c)`. float32 inside; returns [T, Hq, D].
    Table entries past a sequence's last block, and slots past its last token, are never read.
    """
    output = torch.empty_like(query)
    starts = query_starts.tolist()
    for sequence, length in enumerate(context_lengths.tolist()):
        rows = slice(starts[sequence], starts[sequence + 1])
        num_blocks = -(-length // key_cache.shape[1])
        blocks = block_tables[sequence, :num_blocks].long()
        key = key_cache[blocks].flatten(0, 1)[:length]
        value = value_cache[blocks].flatten(0, 1)[:length]
        output[rows] = _attend(query[rows], key, value, scale, window, softcap)
    return output


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int, softcap: float
) -> Tensor:
    num_groups = query.shape[1] // key.shape[1]
    key = key.float().repeat_interleave(num_groups, dim=1)
    value = value.float().repeat_interleave(num_groups, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query.float(), key) * scale
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~_visible(len(query), len(key), window, query.device), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).to(query.dtype)


def _visible(num_rows: int, length: int, window: int, device: torch.device) -> Tensor:
    row = torch.arange(length - num_rows, length, device=device)[:, None]
    token = torch.arange(length, device=device)
    return (token <= row) & (token > row - window) if window > 0 else token <= row
