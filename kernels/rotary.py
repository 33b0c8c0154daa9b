"""Rotary position embedding in half-split (NeoX) order: one program turns all heads of a token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.check import expect, expect_like, expect_rows, expect_shape


@triton.jit
def _turn_heads(
    x,
    output,
    x_stride_h,
    cos,
    sin,
    num_heads,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    head = tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < num_heads) & (pair < HALF)
    source, target = x + head * x_stride_h, output + head * HEAD_DIM
    first = tl.load(source + pair, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF + pair, mask=inside, other=0.0).to(tl.float32)
    dtype = output.dtype.element_ty
    tl.store(target + pair, (first * cos - second * sin).to(dtype), mask=inside)
    tl.store(target + HALF + pair, (second * cos + first * sin).to(dtype), mask=inside)
    if HEAD_DIM > 2 * HALF:
        rest = 2 * HALF + tl.arange(0, REST_BLOCK)[None, :]
        unturned = (head < num_heads) & (rest < HEAD_DIM)
        tl.store(target + rest, tl.load(source + rest, mask=unturned), mask=unturned)


@triton.jit
def _rotary_kernel(
    query,
    key,
    cos,
    sin,
    query_output,
    key_output,
    query_stride_t,
    query_stride_h,
    key_stride_t,
    key_stride_h,
    cos_stride,
    sin_stride,
    NUM_QUERY_HEADS: tl.constexpr,
    NUM_KEY_HEADS: tl.constexpr,
    QUERY_HEADS: tl.constexpr,
    KEY_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, HALF_BLOCK)[None, :]
    cosine = tl.load(cos + token * cos_stride + pair, mask=pair < HALF, other=0.0).to(tl.float32)
    sine = tl.load(sin + token * sin_stride + pair, mask=pair < HALF, other=0.0).to(tl.float32)
    _turn_heads(
        query + token * query_stride_t,
        query_output + token * NUM_QUERY_HEADS * HEAD_DIM,
        query_stride_h,
        cosine,
        sine,
        NUM_QUERY_HEADS,
        QUERY_HEADS,
        HALF,
        HALF_BLOCK,
        REST_BLOCK,
        HEAD_DIM,
    )
    _turn_heads(
        key + token * key_stride_t,
        key_output + token * NUM_KEY_HEADS * HEAD_DIM,
        key_stride_h,
        cosine,
        sine,
        NUM_KEY_HEADS,
        KEY_HEADS,
        HALF,
        HALF_BLOCK,
        REST_BLOCK,
        HEAD_DIM,
    )


def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As kernels/reference/rotary.py. Tokens and heads may be strided, as in a fused projection."""
    _check(query, key, cos, sin)
    query_output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    key_output = torch.empty(key.shape, dtype=key.dtype, device=key.device)
    num_tokens, num_query_heads, head_dim = query.shape
    half = cos.shape[1]
    if query.numel():
        _rotary_kernel[(num_tokens,)](
            query,
            key,
            cos,
            sin,
            query_output,
            key_output,
            query.stride(0),
            query.stride(1),
            key.stride(0),
            key.stride(1),
            cos.stride(0),
            sin.stride(0),
            NUM_QUERY_HEADS=num_query_heads,
            NUM_KEY_HEADS=key.shape[1],
            QUERY_HEADS=triton.next_power_of_2(num_query_heads),
            KEY_HEADS=triton.next_power_of_2(key.shape[1]),
            HALF=half,
            HALF_BLOCK=triton.next_power_of_2(half),
            REST_BLOCK=triton.next_power_of_2(max(1, head_dim - 2 * half)),
            HEAD_DIM=head_dim,
        )
    return query_output, key_output


def _check(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> None:
    expect("dimensions of query", query.dim(), 3)
    expect("dimensions of key", key.dim(), 3)
    num_tokens, _, head_dim = query.shape
    expect_shape("key", key, num_tokens, key.shape[1], head_dim)
    expect_like("key", key, query)
    expect("dimensions of cos", cos.dim(), 2)
    expect_shape("cos", cos, num_tokens, cos.shape[1])
    expect_shape("sin", sin, *cos.shape)
    if 2 * cos.shape[1] > head_dim:
        raise ValueError(f"rotated dimensions: got {2 * cos.shape[1]}, expected <= {head_dim}")
    for name, tensor in (("query", query), ("key", key), ("cos", cos), ("sin", sin)):
        expect(f"device of {name}", tensor.device, query.device)
        expect_rows(name, tensor)
