"""Runs steps: builds the batch, calls the model, samples. Knows no queue of work."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.batch import Batch, BatchBuilder
from engine.capacity import Capacity
from engine.kv_cache import KVCache
from engine.logprobs import PromptLogprobs, describe_samples, wanted_of
from engine.messages import TokenLogprob
from engine.sampler import Sampler
from engine.scheduler import Step


class Model(Protocol):
    """What an engine needs of a model."""

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The hidden state of each token [T, hidden]; writes the tokens' keys and values."""

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits [S', V] float32 of some tokens' hidden states [S', hidden]."""


class Sampled(NamedTuple):
    """What a step made: a new token for each of `step.sampled`, in that order.

    `logprobs` has those of the tokens whose sequences want them, by place in that order.
    """

    token_ids: list[int]
    logprobs: dict[int, TokenLogprob]


class Runner:
    """One model with its KV cache."""

    def __init__(
        self,
        model: Model,
        kv_cache: KVCache,
        capacity: Capacity,
        max_seqs: int,
        vocab_size: int,
        device: torch.device,
        *,
        has_rope_sets: bool = False,
    ) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._builder = BatchBuilder(
            max_seqs,
            capacity.context_length,
            capacity.block_size,
            device,
            has_rope_sets=has_rope_sets,
        )
        self._sampler = Sampler(max_seqs, vocab_size, device)
        self.prompt_logprobs = PromptLogprobs()

    @torch.inference_mode()
    def run(self, step: Step) -> Sampled:
        """Compute a step that has at least one sequence."""
        for sequence in step.admitted:
            self._sampler.set(sequence)
        batch, sampled = self._builder.build(step)
        hidden = self._model.forward(batch, self._kv_cache)
        self.prompt_logprobs.note(step, hidden, self._model.logits)
        if not step.sampled:
            return Sampled([], {})
        if len(step.sampled) < hidden.shape[0]:
            hidden = hidden[batch.logits_indices]
        logits = self._model.logits(hidden)
        wanted = wanted_of(step, logits)  # before the sampler writes over the logits
        token_ids: list[int] = self._sampler.sample(logits, sampled).tolist()
        return Sampled(token_ids, describe_samples(wanted, token_ids) if wanted else {})
