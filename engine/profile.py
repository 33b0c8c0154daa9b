"""The largest step that the settings allow, so that its memory can be measured before it comes."""

import msgspec
import numpy as np
import torch
from torch import Tensor

from engine.batch import Batch, SampledRows
from engine.config import EngineConfig, ModelConfig, SamplingParams
from engine.kv_cache import allocate
from engine.logprobs import PromptLogprobs, describe_samples, wanted_of
from engine.messages import SequenceRequest
from engine.runner import Model
from engine.sampler import Sampler
from engine.scheduler import Step
from engine.sequence import Sequence

# Everything that takes memory; what it does to the logits is of no interest.
_ALL_OPTIONS = SamplingParams(
    max_tokens=2,
    min_tokens=1,
    stop_token_ids=(0,),
    top_k=50,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.1,
    presence_penalty=0.1,
    frequency_penalty=0.1,
    logit_bias={0: 1.0},
    num_logprobs=20,
)
_DESCRIBED = msgspec.structs.replace(_ALL_OPTIONS, num_prompt_logprobs=20)


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
    """One step as large as any will be.

    All sequences are sampled with every option, and one wants its prompt described.
    """
    num_tokens = min(config.max_num_batched_tokens, config.max_seqs * length)
    kv_cache = allocate(model_config, 1, block_size, dtype, device)
    batch = largest_batch(num_tokens, config.max_seqs, block_size, device)
    step = _step(batch.context_lengths.tolist())
    hidden = model.forward(batch, kv_cache)
    PromptLogprobs().note(step, hidden, model.logits)
    logits = model.logits(hidden[batch.logits_indices])
    wanted = wanted_of(step, logits)
    ids = _sample(step, logits, model_config.vocab_size)
    if wanted is not None:
        describe_samples(wanted, ids)


def _step(lengths: list[int]) -> Step:
    """A step of prompts of these lengths."""
    step = Step()
    for row, length in enumerate(lengths):
        params = _ALL_OPTIONS if row else _DESCRIBED
        request = SequenceRequest(id=str(row), prompt_ids=[0] * length, params=params)
        sequence = Sequence(request, (), length + params.max_tokens)
        sequence.row = row
        step.append(sequence, length)
    return step


def _sample(step: Step, logits: Tensor, vocab_size: int) -> list[int]:
    sampler = Sampler(len(step.sequences), vocab_size, logits.device)
    for sequence in step.sequences:
        sampler.set(sequence)
    lengths = np.array(step.num_tokens, dtype=np.int64)
    ids: list[int] = sampler.sample(logits, SampledRows(np.arange(len(lengths)), lengths)).tolist()
    return ids
