"""Argument checks of the launchers; the kernels trust what passed them."""

import torch
from torch import Tensor


def expect(name: str, got: object, expected: object) -> None:
    """Raise ValueError naming both when `got` is not `expected`. Compare shapes as tuples."""
    if got != expected:
        raise ValueError(f"{name}: got {got}, expected {expected}")


def expect_shape(name: str, tensor: Tensor, *shape: int) -> None:
    """Raise ValueError unless `tensor` has exactly this shape."""
    expect(f"shape of {name}", tuple(tensor.shape), shape)


def expect_like(name: str, tensor: Tensor, other: Tensor) -> None:
    """Raise ValueError unless `tensor` has the type of `other` and lies on its device."""
    expect(f"dtype of {name}", tensor.dtype, other.dtype)
    expect(f"device of {name}", tensor.device, other.device)


def expect_index(name: str, tensor: Tensor, dtype: torch.dtype, other: Tensor) -> None:
    """Raise ValueError unless `tensor` is a contiguous index of `dtype` beside `other`."""
    expect(f"dtype of {name}", tensor.dtype, dtype)
    expect(f"device of {name}", tensor.device, other.device)
    expect(f"{name}.is_contiguous()", tensor.is_contiguous(), True)


def expect_rows(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless the last dimension is contiguous: kernels take no stride for it."""
    if tensor.shape[-1] > 1:
        expect(f"last stride of {name}", tensor.stride(-1), 1)


def expect_caches(key_cache: Tensor, value_cache: Tensor, like: Tensor) -> None:
    """Raise ValueError unless both lie beside `like`, alike, in its type or in e4m3."""
    expect("dimensions of key_cache", key_cache.dim(), 4)
    expect_shape("value_cache", value_cache, *key_cache.shape)
    if key_cache.dtype != torch.float8_e4m3fn:
        expect("dtype of key_cache", key_cache.dtype, like.dtype)
    expect("device of key_cache", key_cache.device, like.device)
    expect_like("value_cache", value_cache, key_cache)
    expect_rows("key_cache", key_cache)
    expect_rows("value_cache", value_cache)


def check_heads(query: Tensor, key_cache: Tensor, value_cache: Tensor) -> None:
    """Raise ValueError unless the caches hold heads like the query's, in its type or in e4m3."""
    expect("dimensions of query", query.dim(), 3)
    expect_rows("query", query)
    if key_cache.dtype == torch.float8_e4m3fn:
        expect("bytes of an element of query beside e4m3", query.element_size(), 2)
    expect_caches(key_cache, value_cache, query)
    _, _, num_kv_heads, head_dim = key_cache.shape
    expect("head dimension of query", query.shape[2], head_dim)
    expect("query heads modulo KV heads", query.shape[1] % num_kv_heads, 0)
