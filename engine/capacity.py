"""How many KV blocks an engine gets, and of which size. Knows bytes and settings, no tensors."""

import os
from pathlib import Path
from typing import NamedTuple

from engine.config import EngineConfig, ModelConfig
from engine.errors import LoadError

_CPU_SHARE = 0.25  # of the available memory; the rest is for weights, activations and everyone else
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class Capacity(NamedTuple):
    """The KV cache's dimensions and the longest sequence that fits it. Lengths in tokens."""

    num_blocks: int
    block_size: int
    context_length: int

    @property
    def num_tokens(self) -> int:
        """Tokens in all blocks together."""
        return self.num_blocks * self.block_size


def check_sizes(config: EngineConfig) -> None:
    """Raises LoadError where settings contradict each other in the size of the KV cache."""
    sizes = {
        "--pa-gpu-mem": config.kv_cache_bytes,
        "--pa-ctxt-len": config.kv_cache_tokens,
        "--pa-gpu-mem-usage": config.memory_usage,
    }
    given = [flag for flag, value in sizes.items() if value]
    if len(given) > 1:
        raise LoadError(
            f"{' and '.join(given)} each say how large the KV cache is; leave all but one out."
        )
    if not 0 <= config.memory_usage <= 1:
        raise LoadError(
            f"--pa-gpu-mem-usage is a share of the memory, up to 1, but {config.memory_usage} is "
            "asked for."
        )
    if config.kv_cache_tokens and not config.paged_attn:
        raise LoadError(
            "--pa-ctxt-len counts tokens in blocks, but with --no-paged-attn a sequence holds a "
            "whole context; say --max-seqs and --max-model-len in its place."
        )


def asked_bytes(config: EngineConfig, block_size: int, block_bytes: int) -> int:
    """What the settings say that the KV cache takes; 0 if they leave it to the device."""
    return config.kv_cache_bytes or -(-config.kv_cache_tokens // block_size) * block_bytes


def model_length(config: EngineConfig, model: ModelConfig) -> int:
    """The context length that is asked for. Raises LoadError if the model has no such positions."""
    if config.max_model_len > model.context_length:
        raise LoadError(
            f"A context of {config.max_model_len} tokens is asked for, but the model's own is "
            f"{model.context_length}; lower max_model_len."
        )
    return config.max_model_len or model.context_length


def block_size_of(config: EngineConfig, model: ModelConfig) -> int:
    """Tokens a block: as configured, or without paged attention a whole context."""
    return config.block_size if config.paged_attn else model_length(config, model)


def size_cache(
    config: EngineConfig,
    model: ModelConfig,
    block_bytes: int,
    budget_bytes: int,
    *,
    can_exceed: bool,
) -> Capacity:
    """As many blocks as `budget_bytes` holds, but no more than `max_seqs` full contexts take.

    With `can_exceed`, paged blocks may be more: the prefix cache has a use for them. Raises
    LoadError if there is not even room for one block.
    """
    length, block_size = model_length(config, model), block_size_of(config, model)
    num_blocks = budget_bytes // block_bytes
    if not can_exceed or not config.paged_attn:
        num_blocks = min(num_blocks, config.max_seqs * -(-length // block_size))
    if num_blocks < 1:
        raise LoadError(
            f"The KV cache may take {budget_bytes} bytes, but one block of {block_size} tokens "
            f"takes {block_bytes}; raise --pa-gpu-mem or --pa-gpu-mem-usage, or lower "
            "--max-model-len."
        )
    return Capacity(num_blocks, block_size, min(length, num_blocks * block_size))


def cpu_budget_bytes() -> int:
    """What the KV cache may take of this machine's memory."""
    return int(available_bytes() * _CPU_SHARE)


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Memory that can be used without swapping: the system's or, where less, the container's.

    The page cache counts as free, unlike in `sysconf`: a model just read is in it.
    """
    if not meminfo.exists():  # not Linux
        return _physical_bytes()
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit = cgroup / "memory.max"
    if not limit.exists() or limit.read_text().strip() == "max":
        return available
    used = int((cgroup / "memory.current").read_text()) - _page_cache_bytes(cgroup)
    return max(0, min(available, int(limit.read_text()) - used))


def total_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """All of the memory: the system's or, where less, the container's."""
    if not meminfo.exists():  # not Linux
        return _physical_bytes()
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    total = int(fields["MemTotal"].split()[0]) * 1024
    limit = cgroup / "memory.max"
    if not limit.exists() or limit.read_text().strip() == "max":
        return total
    return min(total, int(limit.read_text()))


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _page_cache_bytes(cgroup: Path) -> int:
    """Pages of files that the container's processes have read; the system takes them back."""
    lines = (cgroup / "memory.stat").read_text().splitlines()
    fields = dict(line.split() for line in lines)
    return int(fields["inactive_file"]) + int(fields["active_file"])
