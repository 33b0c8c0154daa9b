"""Heads of a fused projection made ready for attention: norms, rotation, and the block cache.

One program takes the heads that share a KV head, of one token: its queries go to a tensor of their
own, its key and its value into the cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_caches, expect_index, expect_rows, expect_shape
from kernels.e4m3 import as_bits, is_native, store_rounded


@triton.jit
def _scaled(x, factor, weight, index, inside, dtype: tl.constexpr):
    """A part of normalised heads; rounded as in kernels/rms_norm.py, then to the heads' type."""
    scale = tl.load(weight + index, mask=inside, other=0.0).to(tl.float32)
    normed = (x * factor).to(weight.dtype.element_ty).to(tl.float32) * scale
    return normed.to(dtype).to(tl.float32)


@triton.jit
def _ready_heads(
    source,
    target,
    target_stride_h,
    weight,
    cos,
    sin,
    eps,
    NUM_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    IS_NATIVE: tl.constexpr,
):
    """`NUM_HEADS` heads side by side at `source`: normalised, turned and stored at `target`."""
    dtype: tl.constexpr = source.dtype.element_ty
    head = tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, HALF_BLOCK)[None, :]
    rest = 2 * HALF + tl.arange(0, REST_BLOCK)[None, :]
    is_pair, is_rest = pair < HALF, rest < HEAD_DIM
    in_pairs, in_rest = (head < NUM_HEADS) & is_pair, (head < NUM_HEADS) & is_rest
    source += head * HEAD_DIM
    target += head * target_stride_h
    first = tl.load(source + pair, mask=in_pairs, other=0.0).to(tl.float32)
    second = tl.load(source + HALF + pair, mask=in_pairs, other=0.0).to(tl.float32)
    others = tl.load(source + rest, mask=in_rest, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
        squares += tl.sum(others * others, axis=1)
        factor = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
        first = _scaled(first, factor, weight, pair, is_pair, dtype)
        second = _scaled(second, factor, weight, HALF + pair, is_pair, dtype)
        others = _scaled(others, factor, weight, rest, is_rest, dtype)
    if HALF > 0:
        cosine = tl.load(cos + pair, mask=is_pair, other=0.0).to(tl.float32)
        sine = tl.load(sin + pair, mask=is_pair, other=0.0).to(tl.float32)
        store_rounded(target + pair, first * cosine - second * sine, in_pairs, dtype, IS_NATIVE)
        store_rounded(
            target + HALF + pair, second * cosine + first * sine, in_pairs, dtype, IS_NATIVE
        )
    if HEAD_DIM > 2 * HALF:
        store_rounded(target + rest, others, in_rest, dtype, IS_NATIVE)


@triton.jit
def _write_heads_kernel(
    qkv,
    query_norm,
    key_norm,
    cos,
    sin,
    query,
    key_cache,
    value_cache,
    slots,
    eps,
    qkv_stride,
    cos_stride,
    sin_stride,
    key_cache_stride_n,
    key_cache_stride_b,
    key_cache_stride_h,
    value_cache_stride_n,
    value_cache_stride_b,
    value_cache_stride_h,
    NUM_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    IS_NATIVE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    row = qkv + token * qkv_stride
    first_head = kv_head * NUM_GROUPS
    cos += token * cos_stride
    sin += token * sin_stride
    _ready_heads(
        row + first_head * HEAD_DIM,
        query + (token * (NUM_GROUPS * NUM_KV_HEADS) + first_head) * HEAD_DIM,
        HEAD_DIM,
        query_norm,
        cos,
        sin,
        eps,
        NUM_GROUPS,
        GROUPS,
        HEAD_DIM,
        HALF,
        HALF_BLOCK,
        REST_BLOCK,
        HAS_NORM,
        IS_NATIVE,
    )
    slot = tl.load(slots + token)
    if slot < 0:
        return
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    target = key_cache + block * key_cache_stride_n + offset * key_cache_stride_b
    _ready_heads(
        row + (NUM_GROUPS * NUM_KV_HEADS + kv_head) * HEAD_DIM,
        target + kv_head * key_cache_stride_h,
        0,
        key_norm,
        cos,
        sin,
        eps,
        1,
        1,
        HEAD_DIM,
        HALF,
        HALF_BLOCK,
        REST_BLOCK,
        HAS_NORM,
        IS_NATIVE,
    )
    dim = tl.arange(0, DIM_BLOCK)
    inside = dim < HEAD_DIM
    source = row + ((NUM_GROUPS + 1) * NUM_KV_HEADS + kv_head) * HEAD_DIM
    target = value_cache + block * value_cache_stride_n + offset * value_cache_stride_b
    value = tl.load(source + dim, mask=inside, other=0.0)
    place = target + kv_head * value_cache_stride_h + dim
    store_rounded(place, value.to(tl.float32), inside, qkv.dtype.element_ty, IS_NATIVE)


def write_heads(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
) -> Tensor:
    """As kernels/reference/write_heads.py. All but the last dimension may be strided."""
    _check(qkv, norms, rotation, key_cache, value_cache, slots)
    num_tokens = len(qkv)
    _, block_size, num_kv_heads, head_dim = key_cache.shape
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    query_norm, key_norm = norms if norms is not None else (qkv, qkv)
    cos, sin = rotation if rotation is not None else (qkv, qkv)
    half = cos.shape[1] if rotation is not None else 0
    query = torch.empty(num_tokens, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    if query.numel():
        _write_heads_kernel[(num_tokens, num_kv_heads)](
            qkv,
            query_norm,
            key_norm,
            cos,
            sin,
            query,
            as_bits(key_cache),
            as_bits(value_cache),
            slots,
            eps,
            qkv.stride(0),
            cos.stride(0),
            sin.stride(0),
            *key_cache.stride()[:3],
            *value_cache.stride()[:3],
            NUM_GROUPS=num_heads // num_kv_heads,
            GROUPS=triton.next_power_of_2(num_heads // num_kv_heads),
            NUM_KV_HEADS=num_kv_heads,
            HEAD_DIM=head_dim,
            DIM_BLOCK=triton.next_power_of_2(head_dim),
            BLOCK_SIZE=block_size,
            HALF=half,
            HALF_BLOCK=triton.next_power_of_2(max(1, half)),
            REST_BLOCK=triton.next_power_of_2(max(1, head_dim - 2 * half)),
            HAS_NORM=norms is not None,
            IS_NATIVE=is_native(qkv.device),
            num_warps=2,
        )
    return query


def _check(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
) -> None:
    expect("dimensions of qkv", qkv.dim(), 2)
    expect_rows("qkv", qkv)
    expect_caches(key_cache, value_cache, qkv)
    _, _, num_kv_heads, head_dim = key_cache.shape
    expect("columns of qkv modulo those of a KV group", qkv.shape[1] % (num_kv_heads * head_dim), 0)
    if qkv.shape[1] < 3 * num_kv_heads * head_dim:
        raise ValueError(f"columns of qkv: got {qkv.shape[1]}, fewer than keys and values take")
    expect_shape("slots", slots, len(qkv))
    expect_index("slots", slots, torch.int64, qkv)
    _check_extras(qkv, norms, rotation, head_dim)


def _check_extras(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    rotation: tuple[Tensor, Tensor] | None,
    head_dim: int,
) -> None:
    for weight in norms or ():
        expect_shape("weight of a norm", weight, head_dim)
        expect_rows("weight of a norm", weight)
        expect("device of a norm's weight", weight.device, qkv.device)
    for angles in rotation or ():
        expect("dimensions of cosines and sines", angles.dim(), 2)
        expect_shape("cosines and sines", angles, len(qkv), angles.shape[1])
        expect("device of cosines and sines", angles.device, qkv.device)
        expect_rows("cosines and sines", angles)
        if 2 * angles.shape[1] > head_dim:
            raise ValueError(
                f"rotated dimensions: got {2 * angles.shape[1]}, expected <= {head_dim}"
            )
