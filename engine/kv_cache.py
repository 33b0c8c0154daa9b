"""The tensors that hold keys and values. Knows their layout and size, not who owns which block."""

import numpy as np
import torch
from torch import Tensor

from engine.config import ModelConfig

KVCache = list[tuple[Tensor, Tensor]]


def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """What one block takes over all layers, keys and values; 1 for a model without layers."""
    elements = 2 * config.num_layers * block_size * config.num_kv_heads * config.head_dim
    return max(1, elements * dtype.itemsize)


def allocate(
    config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> KVCache:
    """One (key_cache, value_cache) pair a layer, each [num_blocks, block_size, Hkv, D].

    All are of one tensor. Zeros, because attention may read a slot that was never written before
    it masks it, and 0 * NaN is NaN. On CPU the system hands out zero pages as they are touched, so
    unused blocks cost no memory.
    """
    shape = (config.num_layers, 2, num_blocks, block_size, config.num_kv_heads, config.head_dim)
    if device.type == "cpu" and config.num_layers:  # torch.zeros would write every page
        num_bytes = num_blocks * bytes_per_block(config, block_size, dtype)
        storage = torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(shape)
    else:
        storage = torch.zeros(shape, dtype=dtype, device=device)
    return [(layer[0], layer[1]) for layer in storage]
