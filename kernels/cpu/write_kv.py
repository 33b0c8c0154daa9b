"""New keys and values into the block cache on a CPU: one copy a cache, by slot."""

from torch import Tensor


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """As kernels/reference/write_kv.py. Each cache must be contiguous (RuntimeError if not)."""
    if slots.numel() and slots.numpy().min() < 0:
        kept = slots >= 0
        key, value, slots = key[kept], value[kept], slots[kept]
    key_cache.view(-1, *key.shape[1:]).index_copy_(0, slots, key)
    value_cache.view(-1, *value.shape[1:]).index_copy_(0, slots, value)
