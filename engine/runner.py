"""Runs steps: builds the batch, calls the model, samples. Knows no queue of work."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from engine.batch import Batch, BatchBuilder, SampledRows
from engine.capacity import Capacity
from engine.kv_cache import KVCache
from engine.logprobs import PromptLogprobs, Wanted, describe_samples, wanted_of
from engine.messages import TokenLogprob
from engine.sampler import Sampler
from engine.scheduler import Step

if TYPE_CHECKING:
    from engine.grammar import Grammars, Masks


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


class Made(NamedTuple):
    """What a step made, still on the device."""

    ids: Tensor  # [S'] int64
    wanted: Wanted | None


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
        self.builder = BatchBuilder(
            max_seqs,
            capacity.context_length,
            capacity.block_size,
            device,
            has_rope_sets=has_rope_sets,
        )
        self.sampler = Sampler(max_seqs, vocab_size, device)
        self.grammars: Grammars | None = None  # until the first one comes
        self.prompt_logprobs = PromptLogprobs()

    @torch.inference_mode()
    def run(self, step: Step) -> Sampled:
        """Compute a step that has at least one sequence."""
        return self.tell(step, self.compute(step))

    def compute(self, step: Step) -> Made | None:
        """`run` without waiting for the device; None where nothing is sampled."""
        for sequence in step.admitted:
            self.sampler.set(sequence)
        masks = self.begin_masks(step)
        batch, sampled = self.builder.build(step)
        hidden = self.model.forward(batch, self._kv_cache)
        self.prompt_logprobs.note(step, hidden, self.model.logits)
        if not step.sampled:
            return None
        if len(step.sampled) < hidden.shape[0]:
            hidden = hidden[batch.logits_indices]
        return self.sample(step, self.model.logits(hidden), sampled, masks)

    def sample(
        self, step: Step, logits: Tensor, sampled: SampledRows, masks: "Masks | None"
    ) -> Made:
        """The next ids, of logits [S', V] float32, which may be overwritten."""
        wanted = wanted_of(step, logits)  # before the sampler writes over the logits
        return Made(self.sampler.sample(logits, sampled, masks), wanted)

    def tell(self, step: Step, made: Made | None) -> Sampled:
        """Wait for what `compute` made, and let the grammars go on behind it."""
        if made is None:
            return Sampled([], {})
        token_ids: list[int] = made.ids.tolist()
        wanted = made.wanted
        logprobs = describe_samples(wanted, token_ids) if wanted else {}
        # Last: no step that fails half way may have moved a grammar.
        self._accept(step, token_ids)
        return Sampled(token_ids, logprobs)

    def begin_masks(self, step: Step) -> "Masks | None":
        """Have what the grammars allow computed beside the forward."""
        if self.grammars is None:
            return None
        from engine.grammar import Bound

        rows = [
            Bound(line, sequence.grammar, sequence.rule.stop_ids)
            for line, sequence in enumerate(step.sequences[index] for index in step.sampled)
            if sequence.grammar is not None
        ]
        return self.grammars.begin(rows) if rows else None

    def _accept(self, step: Step, token_ids: list[int]) -> None:
        """Let the grammars go on behind what was sampled; an end is not theirs to judge."""
        if self.grammars is None:
            return
        for index, token_id in zip(step.sampled, token_ids, strict=True):
            sequence = step.sequences[index]
            if sequence.grammar is not None:
                is_end = token_id in sequence.rule.stop_ids
                sequence.grammar.accept(() if is_end else (token_id,))
