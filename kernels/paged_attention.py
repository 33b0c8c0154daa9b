"""Causal attention over a paged KV cache, prefill and decode in one launch.

One program computes a few query tokens of one sequence for the query heads of one KV head, so
that a tile's rows share the keys it loads. Knows no scheduler: a batch may mix anything.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_index, expect_like, expect_rows, expect_shape

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _find_sequence(query_starts, num_sequences, tile, TILE_TOKENS: tl.constexpr):
    """The sequence that owns `tile`: the last whose first tile is not past it.

    Sequence s begins at tile `query_starts[s] // TILE_TOKENS + s`, which leaves each sequence
    enough tiles without the host knowing any length.
    """
    low = 0
    high = num_sequences
    while high - low > 1:
        middle = (low + high) // 2
        is_past = tl.load(query_starts + middle) // TILE_TOKENS + middle > tile
        low = tl.where(is_past, low, middle)
        high = tl.where(is_past, middle, high)
    return low


@triton.jit
def _log2_scores(scores, scale, SOFTCAP: tl.constexpr):
    if SOFTCAP > 0:
        # tanh through exp2; past 2^64 it is 1 in float32, so the bound only keeps exp2 finite.
        power = tl.exp2(tl.minimum(scores * (scale * (2 * _LOG2_E / SOFTCAP)), 64.0))
        return (SOFTCAP * _LOG2_E) * (1.0 - 2.0 / (power + 1.0))
    else:
        return scores * (scale * _LOG2_E)


@triton.jit(do_not_specialize=["num_sequences"])
def _paged_attention_kernel(
    query,
    key_cache,
    value_cache,
    block_tables,
    query_starts,
    context_lengths,
    output,
    scale,
    num_sequences,
    query_stride_t,
    query_stride_h,
    key_stride_n,
    key_stride_b,
    key_stride_h,
    value_stride_n,
    value_stride_b,
    value_stride_h,
    table_stride,
    output_stride_t,
    output_stride_h,
    NUM_GROUPS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    KEY_TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = _find_sequence(query_starts, num_sequences, tile, TILE_TOKENS)
    first_row = tl.load(query_starts + sequence)
    num_rows = tl.load(query_starts + sequence + 1) - first_row
    offset = (tile - first_row // TILE_TOKENS - sequence) * TILE_TOKENS
    if offset >= num_rows:
        return
    before = tl.load(context_lengths + sequence) - num_rows

    # Tile row m is head m % NUM_GROUPS of the group, of token m // NUM_GROUPS.
    m = tl.arange(0, TILE_ROWS)
    dim = tl.arange(0, DIM_BLOCK)
    token = offset + m // NUM_GROUPS
    head = kv_head * NUM_GROUPS + m % NUM_GROUPS
    is_row = (m < TILE_TOKENS * NUM_GROUPS) & (token < num_rows)
    row = (first_row + token).to(tl.int64)
    position = before + token
    in_dim = dim < HEAD_DIM
    rows_mask = is_row[:, None] & in_dim[None, :]
    q_place = query + row[:, None] * query_stride_t + head[:, None] * query_stride_h
    q = tl.load(q_place + dim[None, :], mask=rows_mask, other=0.0)

    end = before + tl.minimum(offset + TILE_TOKENS, num_rows)
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(before + offset - WINDOW + 1, 0) // KEY_TILE * KEY_TILE
    table = block_tables + sequence.to(tl.int64) * table_stride
    highest = tl.full([TILE_ROWS], -float("inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    sums = tl.zeros([TILE_ROWS, DIM_BLOCK], tl.float32)
    for start in range(begin, end, KEY_TILE):
        place = start + tl.arange(0, KEY_TILE)
        is_key = place < end
        block = tl.load(table + place // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
        slot = place % BLOCK_SIZE
        k_place = block * key_stride_n + slot * key_stride_b + kv_head * key_stride_h
        k_mask = in_dim[:, None] & is_key[None, :]
        k = tl.load(key_cache + k_place[None, :] + dim[:, None], mask=k_mask, other=0.0)
        scores = _log2_scores(tl.dot(q, k, input_precision="ieee"), scale, SOFTCAP)
        visible = place[None, :] <= position[:, None]
        if WINDOW > 0:
            visible = visible & (place[None, :] > position[:, None] - WINDOW)
        scores = tl.where(visible, scores, -float("inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        # A row that has seen no key yet stays at -inf; 0 in its place keeps exp2 free of NaN.
        pivot = tl.where(new_highest == -float("inf"), 0.0, new_highest)
        weights = tl.exp2(scores - pivot[:, None])
        shrink = tl.exp2(highest - pivot)
        v_place = block * value_stride_n + slot * value_stride_b + kv_head * value_stride_h
        v_mask = is_key[:, None] & in_dim[None, :]
        v = tl.load(value_cache + v_place[:, None] + dim[None, :], mask=v_mask, other=0.0)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = sums * shrink[:, None]
        sums += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        highest = new_highest

    # Rows of padding may have seen nothing; they are not stored, but 0 / 0 is worth avoiding.
    result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    o_place = output + row[:, None] * output_stride_t + head[:, None] * output_stride_h
    tl.store(o_place + dim[None, :], result.to(output.dtype.element_ty), mask=rows_mask)


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
    """As kernels/reference/paged_attention.py; never waits for the device.

    All but the last dimension may be strided. Scores are float32; half-precision inputs round the
    softmax weights to their type for the second product.
    """
    _check(query, key_cache, value_cache, block_tables, query_starts, context_lengths)
    num_tokens, num_heads, head_dim = query.shape
    num_sequences = context_lengths.shape[0]
    block_size, num_kv_heads = key_cache.shape[1:3]
    num_groups = num_heads // num_kv_heads
    tile = _tile(query, num_sequences, num_groups)
    tile_tokens = tile.rows // num_groups
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if query.numel():
        grid = (num_tokens // tile_tokens + num_sequences, num_kv_heads)
        _paged_attention_kernel[grid](
            query,
            key_cache,
            value_cache,
            block_tables,
            query_starts,
            context_lengths,
            output,
            scale,
            num_sequences,
            query.stride(0),
            query.stride(1),
            *key_cache.stride()[:3],
            *value_cache.stride()[:3],
            block_tables.stride(0),
            output.stride(0),
            output.stride(1),
            NUM_GROUPS=num_groups,
            HEAD_DIM=head_dim,
            DIM_BLOCK=max(16, triton.next_power_of_2(head_dim)),
            BLOCK_SIZE=block_size,
            TILE_ROWS=tile.rows,
            TILE_TOKENS=tile_tokens,
            KEY_TILE=tile.keys,
            WINDOW=window,
            SOFTCAP=float(softcap),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return output


class _Tile(NamedTuple):
    """What one program computes, and how: query rows against keys, a pass of the loop."""

    rows: int
    keys: int
    warps: int
    stages: int


def _tile(query: Tensor, num_sequences: int, num_groups: int) -> _Tile:
    """The largest tile that spills no register on sm_80 and sm_90 (tests/kernels/test_compile.py).

    Decode gets the 16 rows that a tensor core needs. The choice rests on shapes alone: reading a
    length would wait for the device, and a captured graph must keep its grid.
    """
    group_rows = triton.next_power_of_2(num_groups)
    if query.element_size() == 4:  # full float32 products run outside the tensor cores
        return _Tile(max(16, group_rows), keys=16, warps=4, stages=2)
    mean_rows = query.shape[0] * num_groups // max(1, num_sequences)
    rows = max(16, group_rows, min(64, triton.next_power_of_2(max(1, mean_rows))))
    head_dim = query.shape[2]
    warps = 8 if rows >= 64 and head_dim > 64 else 4
    if head_dim > 128:
        return _Tile(rows, keys=32, warps=warps, stages=2)
    return _Tile(rows, keys=64, warps=warps, stages=3 if rows == 16 else 2)


def _check(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
) -> None:
    expect("dimensions of query", query.dim(), 3)
    expect("dimensions of key_cache", key_cache.dim(), 4)
    num_blocks, block_size, num_kv_heads, head_dim = key_cache.shape
    expect("head dimension of query", query.shape[2], head_dim)
    expect("query heads modulo KV heads", query.shape[1] % num_kv_heads, 0)
    expect_shape("value_cache", value_cache, num_blocks, block_size, num_kv_heads, head_dim)
    num_sequences = context_lengths.shape[0]
    expect("dimensions of block_tables", block_tables.dim(), 2)
    expect("rows of block_tables", block_tables.shape[0], num_sequences)
    expect_shape("query_starts", query_starts, num_sequences + 1)
    for name, tensor in (("key_cache", key_cache), ("value_cache", value_cache)):
        expect_like(name, tensor, query)
        expect_rows(name, tensor)
    expect_rows("query", query)
    expect("dtype of block_tables", block_tables.dtype, torch.int32)
    expect("device of block_tables", block_tables.device, query.device)
    expect_rows("block_tables", block_tables)
    expect_index("query_starts", query_starts, torch.int32, query)
    expect_index("context_lengths", context_lengths, torch.int32, query)
