"""Runs steps: builds the batch, calls the model, samples. Knows no queue of work."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.batch import Batch, BatchBuilder
from engine.capacity import Capacity
from engine.kv_cache import KVCache
from engine.sampler import Sampler
from engine.scheduler import Step


class Model(Protocol):
    """What an engine needs of a model."""

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The hidden state of each token [T, hidden]; writes the tokens' keys and values."""

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits [S', V] float32 of some tokens' hidden states [S', hidden]."""


class Runner:
    """One model with its KV cache. `model` may be set to another of the same shape between steps:
    what the cache holds is worth nothing then.
    """

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
        self.model = model
        self._kv_cache = kv_cache
        self._builder = BatchBuilder(
            max_seqs,
            capacity.context_length,
            capacity.block_size,
            device,
            has_rope_sets=has_rope_sets,
        )
        self._sampler = Sampler(max_seqs, vocab_size, device)

    @torch.inference_mode()
    def run(self, step: Step) -> list[int]:
        """Compute a step that has at least one sequence.

        Returns a new token for each of `step.sampled`, in that order.
        """
        for sequence in step.admitted:
            self._sampler.set(sequence)
        batch, sampled = self._builder.build(step)
        hidden = self.model.forward(batch, self._kv_cache)
        if not step.sampled:
            return []
        if len(step.sampled) < hidden.shape[0]:
            hidden = hidden[batch.logits_indices]
        logits = self.model.logits(hidden)
        token_ids: list[int] = self._sampler.sample(logits, sampled).tolist()
        return token_ids
