"""New keys and values into the block cache on a CPU: one copy a cache, by slot."""

import torch
from torch import Tensor

from kernels.reference.write_kv import as_stored


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """As kernels/reference/write_kv.py. Each cache must be contiguous (RuntimeError if not)."""
    if slots.numel() and slots.numpy().min() < 0:
        kept = slots >= 0
        key, value, slots = key[kept], value[kept], slots[kept]
    for cache, rows in ((key_cache, key), (value_cache, value)):
        stored = as_stored(rows, cache.dtype)
        if stored.dtype.itemsize == 1:  # torch copies no rows of e4m3, but of bytes
            cache, stored = cache.view(torch.uint8), stored.view(torch.uint8)
        cache.view(-1, *rows.shape[1:]).index_copy_(0, slots, stored)
