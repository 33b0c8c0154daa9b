"""New keys and values into the block cache: one program stores all heads of one token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import (
    expect,
    expect_caches,
    expect_index,
    expect_like,
    expect_rows,
    expect_shape,
)
from kernels.e4m3 import as_bits, is_native, store_rounded


@triton.jit
def _write_kv_kernel(
    key,
    value,
    key_cache,
    value_cache,
    slots,
    key_stride_t,
    key_stride_h,
    value_stride_t,
    value_stride_h,
    key_cache_stride_n,
    key_cache_stride_b,
    key_cache_stride_h,
    value_cache_stride_n,
    value_cache_stride_b,
    value_cache_stride_h,
    NUM_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    IS_NATIVE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot < 0:
        return
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    head = tl.arange(0, HEADS)[:, None]
    dim = tl.arange(0, DIM_BLOCK)[None, :]
    inside = (head < NUM_HEADS) & (dim < HEAD_DIM)
    dtype: tl.constexpr = key.dtype.element_ty
    source = key + token * key_stride_t + head * key_stride_h + dim
    target = key_cache + block * key_cache_stride_n + offset * key_cache_stride_b
    rows = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    store_rounded(target + head * key_cache_stride_h + dim, rows, inside, dtype, IS_NATIVE)
    source = value + token * value_stride_t + head * value_stride_h + dim
    target = value_cache + block * value_cache_stride_n + offset * value_cache_stride_b
    rows = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    store_rounded(target + head * value_cache_stride_h + dim, rows, inside, dtype, IS_NATIVE)


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """As kernels/reference/write_kv.py. All but the last dimension may be strided."""
    _check(key, value, key_cache, value_cache, slots)
    num_tokens, num_heads, head_dim = key.shape
    if key.numel():
        _write_kv_kernel[(num_tokens,)](
            key,
            value,
            as_bits(key_cache),
            as_bits(value_cache),
            slots,
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            key_cache.stride(0),
            key_cache.stride(1),
            key_cache.stride(2),
            value_cache.stride(0),
            value_cache.stride(1),
            value_cache.stride(2),
            NUM_HEADS=num_heads,
            HEADS=triton.next_power_of_2(num_heads),
            HEAD_DIM=head_dim,
            DIM_BLOCK=triton.next_power_of_2(head_dim),
            BLOCK_SIZE=key_cache.shape[1],
            IS_NATIVE=is_native(key.device),
        )


def _check(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    expect("dimensions of key", key.dim(), 3)
    expect_shape("value", value, *key.shape)
    expect_like("value", value, key)
    expect("dimensions of key_cache", key_cache.dim(), 4)
    expect_shape("key_cache", key_cache, *key_cache.shape[:2], *key.shape[1:])
    expect_caches(key_cache, value_cache, key)
    expect_shape("slots", slots, key.shape[0])
    expect_index("slots", slots, torch.int64, key)
    expect_rows("key", key)
    expect_rows("value", value)
