"""Whether an engine decodes by graphs, and what they take of its device. Knows settings."""

import logging

import torch

from engine.capacity import Capacity, block_size_of, model_length
from engine.config import EngineConfig, ModelConfig
from engine.decode_graphs import DecodeGraphs, bucket_sizes
from engine.graph_device import CudaGraphDevice, GraphDevice
from engine.kv_cache import allocate
from engine.runner import Model

logger = logging.getLogger(__name__)


def choose_graphs(
    config: EngineConfig, model: Model, device: torch.device
) -> CudaGraphDevice | None:
    """Where decode steps are captured; None on a CPU, and with a line in the log if they cannot."""
    if device.type != "cuda":
        return None
    if reason := why_eager(config, model):
        logger.info("eager: %s", reason)
        return None
    return CudaGraphDevice(device, config.max_seqs)


def why_eager(config: EngineConfig, model: Model) -> str:
    """Why a model's decode steps are not captured on a GPU; empty: they are.

    A part of a model that no graph can have says so itself, in `why_eager`.
    """
    if config.enforce_eager:
        return "--enforce-eager asks for it"
    if config.tensor_parallel > 1:
        return "a step of several processes is not captured"
    parts = model.modules() if isinstance(model, torch.nn.Module) else ()
    reasons = (str(getattr(part, "why_eager", "")) for part in parts)
    return next(filter(None, reasons), "")


@torch.inference_mode()
def graph_bytes(
    model: Model,
    model_config: ModelConfig,
    config: EngineConfig,
    cache_dtype: torch.dtype,
    device: GraphDevice,
) -> int:
    """About what all graphs and their state will take of the device.

    Captures two for a cache of one block: all share what the largest works with, and each takes
    about as much more as the second.
    """
    length, block_size = model_length(config, model_config), block_size_of(config, model_config)
    cache = allocate(model_config, 1, block_size, cache_dtype, device.device)
    capacity = Capacity(1, block_size, length)
    before = device.used_bytes()

    def taken_by(num_sizes: int) -> int:
        graphs = DecodeGraphs(
            *(cache, capacity, config.max_seqs, model_config.vocab_size, device),
            has_rope_sets=False,
        )
        graphs.capture(model, num_sizes)
        taken = device.used_bytes() - before
        graphs.forget()
        return taken

    return extrapolate(taken_by(1), taken_by(2), len(bucket_sizes(config.max_seqs)))


def extrapolate(one: int, two: int, num_graphs: int) -> int:
    """What `num_graphs` take, of the bytes that one and two of them took."""
    return max(0, one) + (num_graphs - 1) * max(0, two - one)
