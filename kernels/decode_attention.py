"""Attention of one token a sequence over a paged KV cache, a long context split over programs.

One program takes a stretch of one sequence's keys for the query heads of one KV head; where there
are several stretches a second kernel merges them. The grid follows from shapes alone, so a
captured graph serves whatever lengths come. In a batch that prefills too, sequences with more rows
than one have programs here as well, which do nothing: no length is known where they are launched.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.architecture import capability_of
from kernels.attention_parts import fold, load_tile, log2_scores
from kernels.attention_tiles import MIN_MIXED_TILES, Tile, num_splits_of, table_of, tile_of
from kernels.check import check_heads, expect, expect_index, expect_rows, expect_shape
from kernels.e4m3 import as_bits, is_native


@triton.jit(do_not_specialize=["num_splits", "table_stride"])
def _decode_attention_kernel(
    query,
    key_cache,
    value_cache,
    block_tables,
    query_starts,
    context_lengths,
    output,
    partial_sums,
    partial_logs,
    scale,
    num_splits,
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
    NUM_HEADS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    IS_NATIVE: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    row = sequence
    if HAS_STARTS:
        row = tl.load(query_starts + sequence).to(tl.int64)
        if tl.load(query_starts + sequence + 1) - row != 1:
            return
    length = tl.load(context_lengths + sequence)
    first_key = 0
    if WINDOW > 0:
        first_key = tl.maximum(length - WINDOW, 0)
    first_tile = first_key // KEY_TILE
    end_tile = tl.cdiv(length, KEY_TILE)
    num_tiles = tl.cdiv(end_tile - first_tile, num_splits)
    first_tile += split * num_tiles
    end_tile = tl.minimum(first_tile + num_tiles, end_tile)

    m = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM_BLOCK)
    head = kv_head * NUM_GROUPS + m
    in_dim = dim < HEAD_DIM
    rows_mask = (m < NUM_GROUPS)[:, None] & in_dim[None, :]
    q_place = query + row * query_stride_t + head[:, None] * query_stride_h
    q = tl.load(q_place + dim[None, :], mask=rows_mask, other=0.0)
    table = block_tables + sequence * table_stride
    highest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, DIM_BLOCK], tl.float32)
    for tile in range(first_tile, end_tile):
        place = tile * KEY_TILE + tl.arange(0, KEY_TILE)
        is_key = place < length
        block = tl.load(table + place // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
        slot = place % BLOCK_SIZE
        k_mask, v_mask = is_key[None, :], is_key[:, None]
        if HEAD_DIM < DIM_BLOCK:
            k_mask, v_mask = k_mask & in_dim[:, None], v_mask & in_dim[None, :]
        k_place = block * key_stride_n + slot * key_stride_b + kv_head * key_stride_h
        k_place = key_cache + k_place[None, :] + dim[:, None]
        k = load_tile(k_place, k_mask, q.dtype, True, IS_NATIVE)
        scores = log2_scores(tl.dot(q, k, input_precision="ieee"), scale, SOFTCAP)
        scores = tl.where((is_key & (place >= first_key))[None, :], scores, -float("inf"))
        v_place = block * value_stride_n + slot * value_stride_b + kv_head * value_stride_h
        v_place = value_cache + v_place[:, None] + dim[None, :]
        v = load_tile(v_place, v_mask, q.dtype, True, IS_NATIVE)
        highest, total, sums = fold(highest, total, sums, scores, v)

    # A sequence of length 0, or a stretch without keys, has seen nothing.
    total = tl.where(total == 0.0, 1.0, total)
    result = sums / total[:, None]
    if IS_SPLIT:
        part = (sequence * NUM_HEADS + head) * num_splits + split
        p_place = partial_sums + part[:, None] * HEAD_DIM + dim[None, :]
        tl.store(p_place, result, mask=rows_mask)
        tl.store(partial_logs + part, highest + tl.log2(total), mask=m < NUM_GROUPS)
    else:
        o_place = output + row * output_stride_t + head[:, None] * output_stride_h
        tl.store(o_place + dim[None, :], result.to(output.dtype.element_ty), mask=rows_mask)


@triton.jit(do_not_specialize=["num_splits"])
def _merge_splits_kernel(
    partial_sums,
    partial_logs,
    query_starts,
    output,
    num_splits,
    output_stride_t,
    output_stride_h,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    SPLIT_BLOCK: tl.constexpr,
    HAS_STARTS: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    row = sequence
    if HAS_STARTS:
        row = tl.load(query_starts + sequence).to(tl.int64)
        if tl.load(query_starts + sequence + 1) - row != 1:
            return
    split = tl.arange(0, SPLIT_BLOCK)
    dim = tl.arange(0, DIM_BLOCK)
    part = (sequence * NUM_HEADS + head) * num_splits + split
    is_split = split < num_splits
    logs = tl.load(partial_logs + part, mask=is_split, other=-float("inf"))
    highest = tl.max(logs, axis=0)
    weights = tl.exp2(logs - tl.where(highest == -float("inf"), 0.0, highest))
    inside = is_split[:, None] & (dim < HEAD_DIM)[None, :]
    p_place = partial_sums + part[:, None] * HEAD_DIM + dim[None, :]
    sums = tl.load(p_place, mask=inside, other=0.0)
    total = tl.sum(weights, axis=0)
    result = tl.sum(sums * weights[:, None], axis=0) / tl.where(total == 0.0, 1.0, total)
    o_place = output + row * output_stride_t + head * output_stride_h + dim
    tl.store(o_place, result.to(output.dtype.element_ty), mask=dim < HEAD_DIM)


def decode_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """As kernels/reference/decode_attention.py; never waits for the device.

    All but the last dimension may be strided. Scores are float32; half-precision queries round the
    softmax weights to their type for the second product.
    """
    _check(query, key_cache, value_cache, block_tables, context_lengths)
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if query.numel():
        cut = _cut(query, key_cache, block_tables, window)
        caches, sequences = (key_cache, value_cache, block_tables), (None, context_lengths)
        _launch(cut, query, *caches, *sequences, output, scale, window, softcap)
    return output


def attend_single_rows(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    output: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> bool:
    """Fill the rows of output [T, Hq, D] that are the only one of their sequence, if that is worth
    two launches: if contexts may be long, and programs are few. Returns whether.

    Arguments as those of `paged_attention`, which has checked them.
    """
    if not 1 < len(block_tables) < len(query):
        return False
    cut = _cut(query, key_cache, block_tables, window)
    if cut.num_splits == 1 or cut.num_tiles < MIN_MIXED_TILES:
        return False
    caches, sequences = (key_cache, value_cache, block_tables), (query_starts, context_lengths)
    _launch(cut, query, *caches, *sequences, output, scale, window, softcap)
    return True


class _Cut(NamedTuple):
    """Into how many parts contexts of at most `num_tiles` tiles are cut, which shapes say."""

    tile: Tile
    num_tiles: int
    num_splits: int


def _cut(query: Tensor, key_cache: Tensor, block_tables: Tensor, window: int) -> _Cut:
    _, num_heads, head_dim = query.shape
    _, block_size, num_kv_heads, _ = key_cache.shape
    num_sequences, num_columns = block_tables.shape
    table = table_of(capability_of(query.device))
    group_rows = triton.next_power_of_2(num_heads // num_kv_heads)
    tiles = table.decode if group_rows <= 16 else table.long
    tile = tile_of(tiles, _padded(head_dim), query.element_size())
    tile = tile._replace(rows=max(tile.rows, group_rows))
    num_keys = num_columns * block_size
    num_tiles = triton.cdiv(min(window or num_keys, num_keys), tile.keys)
    num_splits = num_splits_of(table, num_sequences * num_kv_heads, num_tiles)
    return _Cut(tile, num_tiles, num_splits)


def _padded(head_dim: int) -> int:
    size: int = triton.next_power_of_2(head_dim)
    return max(16, size)


def _launch(
    cut: _Cut,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor | None,
    context_lengths: Tensor,
    output: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> None:
    """Without starts, row s is that of sequence s."""
    _, num_heads, head_dim = query.shape
    _, block_size, num_kv_heads, _ = key_cache.shape
    tile, _, num_splits = cut
    num_sequences = len(block_tables)
    starts = context_lengths if query_starts is None else query_starts
    shape = (num_sequences, num_heads, num_splits if num_splits > 1 else 0)
    partial_sums = torch.empty(*shape, head_dim, dtype=torch.float32, device=query.device)
    partial_logs = torch.empty(shape, dtype=torch.float32, device=query.device)
    _decode_attention_kernel[(num_sequences, num_kv_heads, num_splits)](
        query,
        as_bits(key_cache),
        as_bits(value_cache),
        block_tables,
        starts,
        context_lengths,
        output,
        partial_sums,
        partial_logs,
        scale,
        num_splits,
        query.stride(0),
        query.stride(1),
        *key_cache.stride()[:3],
        *value_cache.stride()[:3],
        block_tables.stride(0),
        output.stride(0),
        output.stride(1),
        NUM_HEADS=num_heads,
        NUM_GROUPS=num_heads // num_kv_heads,
        ROWS=tile.rows,
        HEAD_DIM=head_dim,
        DIM_BLOCK=_padded(head_dim),
        BLOCK_SIZE=block_size,
        KEY_TILE=tile.keys,
        HAS_STARTS=query_starts is not None,
        IS_SPLIT=num_splits > 1,
        WINDOW=window,
        SOFTCAP=float(softcap),
        IS_NATIVE=is_native(query.device),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    if num_splits > 1:
        split_block = triton.next_power_of_2(num_splits)
        _merge_splits_kernel[(num_sequences, num_heads)](
            partial_sums,
            partial_logs,
            starts,
            output,
            num_splits,
            output.stride(0),
            output.stride(1),
            NUM_HEADS=num_heads,
            HEAD_DIM=head_dim,
            DIM_BLOCK=_padded(head_dim),
            SPLIT_BLOCK=split_block,
            HAS_STARTS=query_starts is not None,
            num_warps=max(1, min(8, split_block * _padded(head_dim) // 2048)),
        )


def _check(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lengths: Tensor,
) -> None:
    check_heads(query, key_cache, value_cache)
    expect("dimensions of block_tables", block_tables.dim(), 2)
    expect("rows of block_tables", block_tables.shape[0], query.shape[0])
    expect_shape("context_lengths", context_lengths, query.shape[0])
    expect("dtype of block_tables", block_tables.dtype, torch.int32)
    expect("device of block_tables", block_tables.device, query.device)
    expect_rows("block_tables", block_tables)
    expect_index("context_lengths", context_lengths, torch.int32, query)
