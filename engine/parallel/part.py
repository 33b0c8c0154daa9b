"""A process' part of a model and of its KV cache. Knows how they are made, not who asks."""

import torch

from engine.config import EngineConfig, ModelConfig
from engine.device import choose_cache_dtype, choose_device, choose_dtype, prepare_kernels
from engine.errors import LoadError
from engine.kv_cache import KVCache, allocate
from engine.layers.decoder import Decoder
from engine.loading import load_model
from engine.parallel.checkpoint import ShardedCheckpoint
from engine.parallel.group import Group, add_up
from engine.parallel.shard import Shard
from engine.weights.checkpoint import open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.progress import Progress


class Part:
    """What belongs to one process: its device, the shape of its part, then the weights."""

    def __init__(self, files: ModelFiles, config: EngineConfig, shard: Shard) -> None:
        """Opens the files. Raises LoadError for a model or a setting that cannot be divided."""
        _check(config)
        self.shard, self._settings = shard, config
        if (num_threads := config.num_threads or torch.get_num_threads()) > 1:
            torch.set_num_threads(max(1, num_threads // shard.size))
        self._checkpoint = ShardedCheckpoint(open_checkpoint(files), shard)
        self.device = device_of(config, shard)
        prepare_kernels(config, self.device)
        self.dtype = choose_dtype(config, self.config, self.device)
        self.cache_dtype = self.dtype  # until the weights say how their products are made

    @property
    def config(self) -> ModelConfig:
        """The shape of the part."""
        return self._checkpoint.config

    def load(self, group: Group, progress: Progress | None = None) -> Decoder:
        """The part of the model, whose blocks give the sums over all. Raises LoadError."""
        model = load_model(self._checkpoint, self._settings, self.dtype, self.device, progress)
        self.cache_dtype = choose_cache_dtype(
            self._settings, self.dtype, self.device, is_rounded=model.is_rounded
        )
        add_up(model, group.sum)
        return model

    def allocate(self, num_blocks: int, block_size: int) -> KVCache:
        """The part of the KV cache: the heads that are its own."""
        return allocate(self.config, num_blocks, block_size, self.cache_dtype, self.device)


def device_of(config: EngineConfig, shard: Shard) -> torch.device:
    """Its own CUDA device, counted from the one that is asked for; or the CPU, which all share."""
    first = choose_device(config.device)
    if first.type != "cuda":
        return first
    return choose_device(f"cuda:{(first.index or 0) + shard.rank}")


def _check(config: EngineConfig) -> None:
    if config.imatrix:
        raise LoadError("--imatrix is for whole matrices; leave --tensor-parallel out.")
