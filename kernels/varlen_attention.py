"""Attention of whole sequences side by side, both ways, without a cache.

One program computes a few tokens of one sequence for the query heads of one KV head, as in
paged_attention.py. Knows no model: a batch may mix any lengths.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_index, expect_like, expect_rows, expect_shape
from kernels.paged_attention import _find_sequence

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["num_sequences"])
def _varlen_attention_kernel(
    query,
    key,
    value,
    starts,
    output,
    scale,
    num_sequences,
    query_stride_t,
    query_stride_h,
    key_stride_t,
    key_stride_h,
    value_stride_t,
    value_stride_h,
    output_stride_t,
    output_stride_h,
    NUM_GROUPS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    KEY_TILE: tl.constexpr,
    WINDOW: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = _find_sequence(starts, num_sequences, tile, TILE_TOKENS)
    first_row = tl.load(starts + sequence)
    length = tl.load(starts + sequence + 1) - first_row
    offset = (tile - first_row // TILE_TOKENS - sequence) * TILE_TOKENS
    if offset >= length:
        return

    # Tile row m is head m % NUM_GROUPS of the group, of token m // NUM_GROUPS.
    m = tl.arange(0, TILE_ROWS)
    dim = tl.arange(0, DIM_BLOCK)
    token = offset + m // NUM_GROUPS
    head = kv_head * NUM_GROUPS + m % NUM_GROUPS
    is_row = (m < TILE_TOKENS * NUM_GROUPS) & (token < length)
    row = (first_row + token).to(tl.int64)
    in_dim = dim < HEAD_DIM
    rows_mask = is_row[:, None] & in_dim[None, :]
    q_place = query + row[:, None] * query_stride_t + head[:, None] * query_stride_h
    q = tl.load(q_place + dim[None, :], mask=rows_mask, other=0.0)

    begin = 0
    end = length
    if WINDOW > 0:
        begin = tl.maximum(offset - WINDOW, 0) // KEY_TILE * KEY_TILE
        end = tl.minimum(length, offset + TILE_TOKENS + WINDOW)
    highest = tl.full([TILE_ROWS], -float("inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    sums = tl.zeros([TILE_ROWS, DIM_BLOCK], tl.float32)
    for start in range(begin, end, KEY_TILE):
        place = start + tl.arange(0, KEY_TILE)
        is_key = place < end
        key_row = (first_row + place).to(tl.int64)
        k_place = key_row * key_stride_t + kv_head * key_stride_h
        k_mask = in_dim[:, None] & is_key[None, :]
        k = tl.load(key + k_place[None, :] + dim[:, None], mask=k_mask, other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * (scale * _LOG2_E)
        visible = is_key[None, :]
        if WINDOW > 0:
            distance = place[None, :] - token[:, None]
            visible = visible & (distance <= WINDOW) & (distance >= -WINDOW)
        scores = tl.where(visible, scores, -float("inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        # A row that has seen no key yet stays at -inf; 0 in its place keeps exp2 free of NaN.
        pivot = tl.where(new_highest == -float("inf"), 0.0, new_highest)
        weights = tl.exp2(scores - pivot[:, None])
        shrink = tl.exp2(highest - pivot)
        v_place = key_row * value_stride_t + kv_head * value_stride_h
        v_mask = is_key[:, None] & in_dim[None, :]
        v = tl.load(value + v_place[:, None] + dim[None, :], mask=v_mask, other=0.0)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = sums * shrink[:, None]
        sums += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        highest = new_highest

    # Rows of padding may have seen nothing; they are not stored, but 0 / 0 is worth avoiding.
    result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    o_place = output + row[:, None] * output_stride_t + head[:, None] * output_stride_h
    tl.store(o_place + dim[None, :], result.to(output.dtype.element_ty), mask=rows_mask)


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float, window: int = 0
) -> Tensor:
    """As kernels/reference/varlen_attention.py; never waits for the device.

    All but the last dimension may be strided. Scores are float32; half-precision inputs round the
    softmax weights to their type for the second product.
    """
    _check(query, key, value, starts)
    num_tokens, num_heads, head_dim = query.shape
    num_sequences, num_kv_heads = len(starts) - 1, key.shape[1]
    num_groups = num_heads // num_kv_heads
    tile = _tile(query, num_groups)
    tile_tokens = tile.rows // num_groups
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if query.numel():
        grid = (num_tokens // tile_tokens + num_sequences, num_kv_heads)
        _varlen_attention_kernel[grid](
            *(query, key, value, starts, output, scale, num_sequences),
            *query.stride()[:2],
            *key.stride()[:2],
            *value.stride()[:2],
            *output.stride()[:2],
            NUM_GROUPS=num_groups,
            HEAD_DIM=head_dim,
            DIM_BLOCK=max(16, triton.next_power_of_2(head_dim)),
            TILE_ROWS=tile.rows,
            TILE_TOKENS=tile_tokens,
            KEY_TILE=tile.keys,
            WINDOW=window,
            num_warps=tile.warps,
            num_stages=2,
        )
    return output


class _Tile(NamedTuple):
    """What one program computes, and how: query rows against keys, a pass of the loop."""

    rows: int
    keys: int
    warps: int


def _tile(query: Tensor, num_groups: int) -> _Tile:
    """The largest tile that spills no register (tests/kernels/test_compile.py)."""
    group_rows = triton.next_power_of_2(num_groups)
    if query.element_size() == 4:  # full float32 products run outside the tensor cores
        return _Tile(max(16, group_rows), keys=16, warps=4)
    rows, head_dim = max(64, group_rows), query.shape[2]
    return _Tile(rows, keys=32 if head_dim > 128 else 64, warps=8 if head_dim > 64 else 4)


def _check(query: Tensor, key: Tensor, value: Tensor, starts: Tensor) -> None:
    expect("dimensions of query", query.dim(), 3)
    expect("dimensions of key", key.dim(), 3)
    num_tokens, num_heads, head_dim = query.shape
    expect("query heads modulo KV heads", num_heads % key.shape[1], 0)
    for name, tensor in (("key", key), ("value", value)):
        expect_shape(name, tensor, num_tokens, key.shape[1], head_dim)
        expect_like(name, tensor, query)
        expect_rows(name, tensor)
    expect_rows("query", query)
    expect("dimensions of starts", starts.dim(), 1)
    expect_index("starts", starts, torch.int32, query)
