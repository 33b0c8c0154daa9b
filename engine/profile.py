"""Measures what the largest step needs on an accelerator; the KV cache can have the rest."""

import numpy as np
import torch
from torch import Tensor

from engine import gumbel, sampling
from engine.batch import Batch
from engine.config import EngineConfig, ModelConfig
from engine.kv_cache import allocate
from engine.runner import Model

# Of the device's memory; allocations fragment, and other processes draw from it too.
_USED_SHARE = 0.92


def largest_batch(num_tokens: int, num_seqs: int, block_size: int, device: torch.device) -> Batch:
    """A batch of `num_tokens` in `num_seqs` sequences that reads block 0 and writes nothing."""
    bounds = np.linspace(0, num_tokens, num_seqs + 1).astype(np.int32)
    lengths = np.diff(bounds)
    num_columns = -(-int(lengths.max()) // block_size)
    positions = np.arange(num_tokens) - np.repeat(bounds[:-1], lengths)

    def on_device(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Batch(
        token_ids=torch.zeros(num_tokens, dtype=torch.int64, device=device),
        positions=on_device(positions.astype(np.int64)),
        slots=torch.full((num_tokens,), -1, dtype=torch.int64, device=device),
        block_tables=torch.zeros((num_seqs, num_columns), dtype=torch.int32, device=device),
        query_starts=on_device(bounds),
        context_lengths=on_device(lengths),
        logits_indices=on_device(bounds[1:].astype(np.int64) - 1),
    )


@torch.inference_mode()
def run_largest(
    model: Model,
    config: EngineConfig,
    model_config: ModelConfig,
    length: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """One step as large as any will be, sampling with every filter included."""
    num_tokens = min(config.max_num_batched_tokens, config.max_seqs * length)
    kv_cache = allocate(model_config, 1, block_size, dtype, device)
    batch = largest_batch(num_tokens, config.max_seqs, block_size, device)
    logits = model.logits(model.forward(batch, kv_cache)[batch.logits_indices])
    ones = torch.ones(len(logits), device=device)
    seeds = torch.zeros(len(logits), dtype=torch.int64, device=device)
    logits = sampling.keep_top_k(logits, seeds + logits.shape[-1])
    logits = sampling.keep_min_p(sampling.keep_top_p(logits, ones), ones)
    gumbel.draw(logits, seeds, seeds, seeds)


def cuda_budget_bytes(
    model: Model,
    config: EngineConfig,
    model_config: ModelConfig,
    length: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """What is left for KV on a CUDA device that holds the weights already.

    Runs one step to see its peak.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run_largest(model, config, model_config, length, block_size, dtype, device)
    torch.cuda.synchronize(device)
    activations = torch.cuda.max_memory_allocated(device) - before
    counts = config.max_seqs * model_config.vocab_size * 5  # engine/penalties.py
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return max(0, free - int(total * (1 - _USED_SHARE)) - activations - counts)
