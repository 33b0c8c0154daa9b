"""How large the KV cache of an engine becomes: by its settings, its model and its device."""

import torch

from engine.capacity import Capacity, block_size_of, cpu_budget_bytes, model_length, size_cache
from engine.config import EngineConfig, ModelConfig
from engine.errors import LoadError
from engine.kv_cache import bytes_per_block
from engine.profile import cuda_budget_bytes
from engine.runner import Model


def check_settings(config: EngineConfig) -> None:
    """Raises LoadError for bounds that contradict each other."""
    if min(config.max_seqs, config.block_size) < 1:
        raise LoadError("max_seqs and block_size must be at least 1.")
    if config.max_num_batched_tokens < config.max_seqs:
        raise LoadError(
            f"max_num_batched_tokens is {config.max_num_batched_tokens}; "
            f"it must be at least max_seqs, which is {config.max_seqs}."
        )


def cache_capacity(
    model: Model,
    model_config: ModelConfig,
    config: EngineConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    reserved_bytes: int = 0,
) -> Capacity:
    """The cache's dimensions, as configured, or by the machine's memory or the device's rest.

    On a GPU `reserved_bytes` of it are left for what is allocated after the cache.
    """
    length, block_size = model_length(config, model_config), block_size_of(config, model_config)
    block_bytes = bytes_per_block(model_config, block_size, dtype)
    budget = config.kv_cache_bytes
    if not budget and device.type == "cpu":
        budget = cpu_budget_bytes() // config.tensor_parallel
    elif not budget:
        budget = cuda_budget_bytes(model, config, model_config, length, block_size, dtype, device)
        budget = max(0, budget - reserved_bytes)
    can_exceed = bool(config.kv_cache_bytes) or device.type != "cpu"
    return size_cache(config, model_config, block_bytes, budget, can_exceed=can_exceed)
