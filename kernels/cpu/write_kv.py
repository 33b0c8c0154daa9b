"""New keys and values into the block cache on a CPU: one copy a cache, by slot."""

from torch import Tensor


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """As kernels/reference/write_kv.py. Each cache must be contiguous (RuntimeError if not)."""
    if slots.numel() and slots.numpy().min() < 0:
        kept = slots >= 0
        key, value, slots = key[kept], value[kept], slots[kept]
    for new, cache in ((key, key_cache), (value, value_cache)):
        cache.view(-1, *new.shape[1:]).index_copy_(0, slots, new.to(cache.dtype))
