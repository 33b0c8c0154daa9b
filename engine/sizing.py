"""How large the KV cache of an engine becomes: by its settings, its model and its device."""

import logging
from collections.abc import Callable

import torch

from engine.capacity import (
    Capacity,
    asked_bytes,
    block_size_of,
    check_sizes,
    cpu_budget_bytes,
    model_length,
    size_cache,
)
from engine.config import EngineConfig, ModelConfig
from engine.errors import LoadError
from engine.kv_cache import bytes_per_block
from engine.memory import Memory, memory_of, peak_bytes
from engine.profile import run_largest
from engine.runner import Model
from engine.shortage import enough_memory

logger = logging.getLogger(__name__)

# Of a GPU's memory: allocations fragment, and other processes draw from it too.
_USAGE = 0.9


def check_settings(config: EngineConfig) -> None:
    """Raises LoadError for bounds that contradict each other."""
    check_sizes(config)
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
    """The cache's dimensions, as configured, or by the device's memory.

    On a GPU, and where a share of a CPU's memory is asked for, the largest step runs once, to see
    what it takes; `reserved_bytes` are left free beside it, for what is allocated after the cache.
    Raises LoadError if the settings cannot be met.
    """
    length, block_size = model_length(config, model_config), block_size_of(config, model_config)
    block_bytes = bytes_per_block(model_config, block_size, dtype)
    asked = asked_bytes(config, block_size, block_bytes)
    if device.type == "cpu" and not config.memory_usage:
        _check_free(config, asked, memory_of(device))
        budget = asked or cpu_budget_bytes() // config.tensor_parallel
        return size_cache(config, model_config, block_bytes, budget, can_exceed=bool(asked))

    def step() -> None:
        run_largest(model, config, model_config, length, block_size, dtype, device)

    taken = _step_bytes(config, device, step) + reserved_bytes
    room = _room(config, device, taken)
    if (asked or block_bytes) > room:
        raise LoadError(_no_room(config, device, taken, asked, room))
    _report(device, taken, asked or room)
    return size_cache(config, model_config, block_bytes, asked or room, can_exceed=True)


def _check_free(config: EngineConfig, asked: int, memory: Memory) -> None:
    """What was asked for has to be there, though a CPU's pages are only taken as they are used."""
    if asked * config.tensor_parallel > memory.free:
        raise LoadError(
            f"The KV cache of {asked * config.tensor_parallel / 1e9:.2f} GB that is asked for does "
            f"not fit the memory of the machine ({memory}); lower --pa-gpu-mem or --pa-ctxt-len."
        )


def _step_bytes(config: EngineConfig, device: torch.device, step: Callable[[], None]) -> int:
    what = f"A step of {config.max_num_batched_tokens} tokens in {config.max_seqs} sequences"
    with enough_memory(what, device, "lower --max-num-batched-tokens or --max-seqs"):
        return peak_bytes(device, step)


def _usage(config: EngineConfig) -> float:
    """The share of the memory that may be filled. For a size that was asked for it is all."""
    if config.kv_cache_bytes or config.kv_cache_tokens:
        return 1.0
    return config.memory_usage or _USAGE


def _room(config: EngineConfig, device: torch.device, taken: int) -> int:
    """What the share that may be used leaves beside all that is there and `taken` more."""
    memory = memory_of(device)
    num_shares = config.tensor_parallel if device.type == "cpu" else 1  # others have their own GPU
    return (memory.free - int(memory.total * (1 - _usage(config)))) // num_shares - taken


def _no_room(config: EngineConfig, device: torch.device, taken: int, asked: int, room: int) -> str:
    """Why the KV cache does not fit, and what would help."""
    state, step = memory_of(device), f"{taken / 1e9:.2f} GB"
    if asked:
        return (
            f"The KV cache of {asked / 1e9:.2f} GB that is asked for does not fit {device}: beside "
            f"the weights and the {step} of the largest step {max(0, room) / 1e9:.2f} GB are left "
            f"({state}); lower --pa-gpu-mem or --pa-ctxt-len, --max-num-batched-tokens or "
            "--max-seqs."
        )
    return (
        f"--pa-gpu-mem-usage {_usage(config):g} leaves no room for a KV cache on {device} "
        f"({state}, of which the largest step takes {step}); raise it, lower "
        "--max-num-batched-tokens or --max-seqs, or serve a smaller model."
    )


def _report(device: torch.device, taken: int, cache_bytes: int) -> None:
    logger.info(
        "%s: %s beside the weights; the largest step takes %.2f GB, the KV cache %.2f GB",
        device,
        memory_of(device),
        taken / 1e9,
        cache_bytes / 1e9,
    )
