"""New keys and values into the block cache: the truth for kernels/write_kv.py."""

import torch
from torch import Tensor

LARGEST_E4M3 = 448.0


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """Store row t of `key` and `value` at slot `slots[t]`, in place; slot -1 skips the row.

    key, value: [T, Hkv, D]; key_cache, value_cache: [N, B, Hkv, D]; slots: [T] int64, where a slot
    is `block * B + offset`. No two rows may name the same slot. Numbers are rounded to the
    cache's type, to the nearest; in float8_e4m3fn what is beyond 448 becomes that.
    """
    kept = slots >= 0
    block, offset = slots[kept] // key_cache.shape[1], slots[kept] % key_cache.shape[1]
    key_cache[block, offset] = as_stored(key[kept], key_cache.dtype)
    value_cache[block, offset] = as_stored(value[kept], value_cache.dtype)


def as_stored(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in the cache's type."""
    if dtype != torch.float8_e4m3fn:
        return rows.to(dtype)
    return rows.float().clamp(-LARGEST_E4M3, LARGEST_E4M3).to(dtype)
