"""From a layer's projections to its attended heads on a CPU: one call of the library."""

import torch
from torch import Tensor

from kernels.cpu.native.attention import add_preparation, attention_call, can_attend
from kernels.cpu.native.bindings import loaded_library


def is_native(qkv: Tensor, caches: tuple[Tensor, Tensor]) -> bool:
    """Whether `cached_attention` can be asked: there is a library, and it reads these."""
    return loaded_library() is not None and can_attend(qkv, caches, _num_heads(qkv, caches[0]))


def cached_attention(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """As kernels/reference/cached_attention.py, within float32 rounding, where `is_native`."""
    library = loaded_library()
    assert library is not None
    num_heads, head_dim = _num_heads(qkv, key_cache), key_cache.shape[3]
    output = torch.empty(len(qkv), num_heads, head_dim)
    sequences = (block_tables, query_starts, context_lengths)
    caches = (key_cache, value_cache)
    call = attention_call((qkv, output), num_heads, caches, sequences, scale, window, softcap)
    add_preparation(call, slots, norms, eps, rotation)
    library.attention(call)
    return output.view(len(qkv), num_heads * head_dim)


def _num_heads(qkv: Tensor, key_cache: Tensor) -> int:
    _, _, num_kv_heads, head_dim = key_cache.shape
    return qkv.shape[1] // head_dim - 2 * num_kv_heads
