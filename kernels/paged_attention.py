"""Causal attention over a paged KV cache of a batch that may mix anything. Knows no scheduler.

One program computes a few query tokens of one sequence for the query heads of one KV head, so
that a tile's rows share the keys it loads. Where that would leave long contexts of decoding
sequences to a program each, decode_attention.py splits those first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.architecture import capability_of
from kernels.attention_parts import fold, load_tile, log2_scores
from kernels.attention_tiles import Tile, table_of, tile_of
from kernels.check import check_heads, expect, expect_index, expect_rows, expect_shape
from kernels.decode_attention import attend_single_rows
from kernels.e4m3 import as_bits, is_native


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
def _attend_range(
    state,
    q,
    caches,
    key_strides,
    value_strides,
    table,
    kv_head,
    position,
    begin,
    end,
    scale,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    IS_NATIVE: tl.constexpr,
    HAS_EDGE: tl.constexpr,
):
    """Take in the keys from `begin` to `end`; without an edge whole tiles that every row sees."""
    highest, total, sums = state
    key_cache, value_cache = caches
    key_stride_n, key_stride_b, key_stride_h = key_strides
    value_stride_n, value_stride_b, value_stride_h = value_strides
    dim = tl.arange(0, DIM_BLOCK)
    in_dim = dim < HEAD_DIM
    IS_MASKED: tl.constexpr = HAS_EDGE or HEAD_DIM < DIM_BLOCK
    for start in range(begin, end, KEY_TILE):
        place = start + tl.arange(0, KEY_TILE)
        is_key = place < end
        if HAS_EDGE:
            block = tl.load(table + place // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
        else:
            block = tl.load(table + place // BLOCK_SIZE).to(tl.int64)
        k_mask, v_mask = is_key[None, :], is_key[:, None]
        if HEAD_DIM < DIM_BLOCK:
            k_mask, v_mask = k_mask & in_dim[:, None], v_mask & in_dim[None, :]
        slot = place % BLOCK_SIZE
        k_place = block * key_stride_n + slot * key_stride_b + kv_head * key_stride_h
        k_place = key_cache + k_place[None, :] + dim[:, None]
        k = load_tile(k_place, k_mask, q.dtype, IS_MASKED, IS_NATIVE)
        scores = log2_scores(tl.dot(q, k, input_precision="ieee"), scale, SOFTCAP)
        if HAS_EDGE:
            visible = place[None, :] <= position[:, None]
            if WINDOW > 0:
                visible = visible & (place[None, :] > position[:, None] - WINDOW)
            scores = tl.where(visible, scores, -float("inf"))
        v_place = block * value_stride_n + slot * value_stride_b + kv_head * value_stride_h
        v_place = value_cache + v_place[:, None] + dim[None, :]
        v = load_tile(v_place, v_mask, q.dtype, IS_MASKED, IS_NATIVE)
        highest, total, sums = fold(highest, total, sums, scores, v)
    return highest, total, sums


@triton.jit(do_not_specialize=["num_sequences", "table_stride"])
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
    IS_NATIVE: tl.constexpr,
    HAS_SINGLES: tl.constexpr,
):
    """Rows that are the only one of their sequence are left out, unless HAS_SINGLES."""
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = _find_sequence(query_starts, num_sequences, tile, TILE_TOKENS)
    first_row = tl.load(query_starts + sequence)
    num_rows = tl.load(query_starts + sequence + 1) - first_row
    offset = (tile - first_row // TILE_TOKENS - sequence) * TILE_TOKENS
    if offset >= num_rows:
        return
    if (num_rows == 1) & (not HAS_SINGLES):
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

    # Keys of the tiles that every row sees whole lie from `low` to `full`; edges are masked.
    first_position = before + offset
    end = before + tl.minimum(offset + TILE_TOKENS, num_rows)
    begin = 0
    low = 0
    if WINDOW > 0:
        begin = tl.maximum(first_position - WINDOW + 1, 0) // KEY_TILE * KEY_TILE
        low = tl.minimum(tl.cdiv(tl.maximum(end - WINDOW, 0), KEY_TILE) * KEY_TILE, end)
    full = tl.maximum((first_position + 1) // KEY_TILE * KEY_TILE, low)
    table = block_tables + sequence.to(tl.int64) * table_stride
    caches = (key_cache, value_cache)
    key_strides = (key_stride_n, key_stride_b, key_stride_h)
    value_strides = (value_stride_n, value_stride_b, value_stride_h)
    highest = tl.full([TILE_ROWS], -float("inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    sums = tl.zeros([TILE_ROWS, DIM_BLOCK], tl.float32)
    state = (highest, total, sums)
    if WINDOW > 0:
        state = _attend_range(
            state,
            q,
            caches,
            key_strides,
            value_strides,
            table,
            kv_head,
            position,
            begin,
            low,
            scale,
            HEAD_DIM,
            DIM_BLOCK,
            BLOCK_SIZE,
            KEY_TILE,
            WINDOW,
            SOFTCAP,
            IS_NATIVE,
            True,
        )
    state = _attend_range(
        state,
        q,
        caches,
        key_strides,
        value_strides,
        table,
        kv_head,
        position,
        low,
        full,
        scale,
        HEAD_DIM,
        DIM_BLOCK,
        BLOCK_SIZE,
        KEY_TILE,
        WINDOW,
        SOFTCAP,
        IS_NATIVE,
        False,
    )
    state = _attend_range(
        state,
        q,
        caches,
        key_strides,
        value_strides,
        table,
        kv_head,
        position,
        full,
        end,
        scale,
        HEAD_DIM,
        DIM_BLOCK,
        BLOCK_SIZE,
        KEY_TILE,
        WINDOW,
        SOFTCAP,
        IS_NATIVE,
        True,
    )
    highest, total, sums = state
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
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if query.numel():
        caches, sequences = (key_cache, value_cache, block_tables), (query_starts, context_lengths)
        has_singles = not attend_single_rows(
            query, *caches, *sequences, output, scale, window, softcap
        )
        # Without those most batches have one sequence left.
        mean_rows = num_tokens // num_sequences if has_singles else num_tokens - num_sequences + 1
        tile = _tile(query, key_cache, mean_rows * num_groups, num_groups)
        tile_tokens = tile.rows // num_groups
        grid = (num_tokens // tile_tokens + num_sequences, num_kv_heads)
        _paged_attention_kernel[grid](
            query,
            as_bits(key_cache),
            as_bits(value_cache),
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
            IS_NATIVE=is_native(query.device),
            HAS_SINGLES=has_singles,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return output


def _tile(query: Tensor, key_cache: Tensor, num_rows: int, num_groups: int) -> Tile:
    """The long tile where `num_rows`, a sequence's, fill half of its rows, else the short one.

    Short ones spill over e4m3. The choice rests on shapes alone: reading a length would wait for
    the device.
    """
    table = table_of(capability_of(query.device))
    head = (triton.next_power_of_2(query.shape[2]), query.element_size())
    short, long = tile_of(table.short, *head), tile_of(table.long, *head)
    group_rows = triton.next_power_of_2(num_groups)
    is_mixed = key_cache.dtype == torch.float8_e4m3fn
    is_long = is_mixed or group_rows > short.rows or 2 * num_rows >= long.rows
    tile = long if is_long else short
    return tile._replace(rows=max(tile.rows, group_rows))


def _check(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
) -> None:
    check_heads(query, key_cache, value_cache)
    num_sequences = context_lengths.shape[0]
    expect("dimensions of block_tables", block_tables.dim(), 2)
    expect("rows of block_tables", block_tables.shape[0], num_sequences)
    expect_shape("query_starts", query_starts, num_sequences + 1)
    expect("dtype of block_tables", block_tables.dtype, torch.int32)
    expect("device of block_tables", block_tables.device, query.device)
    expect_rows("block_tables", block_tables)
    expect_index("query_starts", query_starts, torch.int32, query)
    expect_index("context_lengths", context_lengths, torch.int32, query)
