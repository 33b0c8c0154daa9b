"""The arguments of the library's attention, as C++ has them. Knows no library."""

import ctypes

import torch
from torch import Tensor

MAX_GROUP = 64  # query heads of a KV head

_Rotation = tuple[Tensor, Tensor]


class AttentionCall(ctypes.Structure):
    """`Attention` of attention.h. It holds addresses: what they belong to must outlive it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "keys", "values")),
        *((name, ctypes.c_void_p) for name in ("tables", "starts", "lengths", "out")),
        *((name, ctypes.c_long) for name in ("query_stride", "table_width", "block_size")),
        *((name, ctypes.c_long) for name in ("num_kv_heads", "num_heads", "head_dim")),
        *((name, ctypes.c_long) for name in ("num_sequences", "window")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
        *((name, ctypes.c_void_p) for name in ("slots", "query_norm", "key_norm", "cos", "sin")),
        ("half", ctypes.c_long),
        ("eps", ctypes.c_float),
        ("has_halves", ctypes.c_int),
    )


def can_attend(query: Tensor, caches: tuple[Tensor, Tensor], num_heads: int) -> bool:
    """Whether the library reads these as they are."""
    keys, values = caches
    is_float = query.dtype == torch.float32 and keys.dtype in (torch.float32, torch.float16)
    is_float &= keys.dtype == values.dtype
    is_whole = keys.is_contiguous() and values.is_contiguous()
    return is_float and is_whole and num_heads <= MAX_GROUP * keys.shape[2]


def attention_call(
    ends: tuple[Tensor, Tensor] | None,
    num_heads: int,
    caches: tuple[Tensor, Tensor],
    sequences: tuple[Tensor, Tensor, Tensor],
    scale: float,
    window: int,
    softcap: float,
) -> AttentionCall:
    """Attention of `num_heads` query heads.

    ends: query rows [T, Hq * D or more] and the output [T, Hq, D]; None: `attention_block` has
    them. caches: [N, B, Hkv, D] each, float32 or float16; sequences: block tables, query starts and
    context lengths, int32. All else float32, and contiguous, the queries in their last dimensions.
    """
    key_cache, value_cache = caches
    tables, starts, lengths = sequences
    _, block_size, num_kv_heads, head_dim = key_cache.shape
    return AttentionCall(
        None if ends is None else ends[0].data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        tables.data_ptr(),
        starts.data_ptr(),
        lengths.data_ptr(),
        None if ends is None else ends[1].data_ptr(),
        0 if ends is None else ends[0].stride(0),
        tables.shape[1],
        block_size,
        num_kv_heads,
        num_heads,
        head_dim,
        lengths.shape[0],
        window,
        scale,
        softcap,
        has_halves=key_cache.dtype == torch.float16,
    )


def add_preparation(
    call: AttentionCall,
    slots: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: _Rotation | None,
) -> None:
    """Have the rows at `call.query` be projections [T, Hq + 2 Hkv, D], which are overwritten.

    slots [T] int64; norms [D] of queries and keys, cosines and sines [T, R / 2]: float32; all
    contiguous.
    """
    call.slots, call.eps = slots.data_ptr(), eps
    if norms is not None:
        call.query_norm, call.key_norm = norms[0].data_ptr(), norms[1].data_ptr()
    if rotation is not None:
        call.cos, call.sin = rotation[0].data_ptr(), rotation[1].data_ptr()
        call.half = rotation[0].shape[1]
