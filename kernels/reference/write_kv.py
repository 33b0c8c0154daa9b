"""New keys and values into the block cache: the truth for kernels/write_kv.py."""

from torch import Tensor


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """Store row t of `key` and `value` at slot `slots[t]`, in place; slot -1 skips the row.

    key, value: [T, Hkv, D]; key_cache, value_cache: [N, B, Hkv, D]; slots: [T] int64, where a slot
    is `block * B + offset`. No two rows may name the same slot. Numbers are rounded to the cache's
    type.
    """
    kept = slots >= 0
    block, offset = slots[kept] // key_cache.shape[1], slots[kept] % key_cache.shape[1]
    key_cache[block, offset] = key[kept].to(key_cache.dtype)
    value_cache[block, offset] = value[kept].to(value_cache.dtype)
