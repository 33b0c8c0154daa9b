"""Log-probabilities of tokens, from a step's logits. Knows tensors and steps, no sampling.

They are of the model's own distribution: before penalties, bias, temperature and filters.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from engine.messages import SequenceOutput, TokenLogprob
from engine.scheduler import Step
from engine.sequence import Sequence as EngineSequence

# A prompt's logits are made so many rows at a time: all of a long one would be gigabytes.
PROMPT_ROWS = 64


class Wanted(NamedTuple):
    """The rows of a step's samples whose log-probabilities are wanted, before they are sampled."""

    places: list[int]  # in `step.sampled`
    logprobs: Tensor  # [R, V]
    nums_top: list[int]


def wanted_of(step: Step, logits: Tensor) -> Wanted | None:
    """What to keep of the logits [S', V] of a step's samples; None if no sequence asks."""
    nums = [step.sequences[index].params.num_logprobs for index in step.sampled]
    places = [place for place, num in enumerate(nums) if num is not None]
    if not places:
        return None
    if len(places) < len(nums):
        index = torch.tensor(places).to(logits.device, non_blocking=True)
        logits = logits.index_select(0, index)
    return Wanted(places, _log_softmax(logits), [nums[place] or 0 for place in places])


def describe_samples(wanted: Wanted, token_ids: Sequence[int]) -> dict[int, TokenLogprob]:
    """The log-probabilities of a step's new tokens, by place in `step.sampled`."""
    chosen = [token_ids[place] for place in wanted.places]
    return dict(
        zip(wanted.places, _describe(wanted.logprobs, chosen, wanted.nums_top), strict=True)
    )


class PromptLogprobs:
    """What has been computed of the prompts whose log-probabilities are wanted, by sequence.

    The first token of a prompt has none. A sequence that is computed again is described again.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[int, TokenLogprob]] = {}

    def note(self, step: Step, hidden: Tensor, logits_of: Callable[[Tensor], Tensor]) -> None:
        """Describe the prompt tokens behind those that the step computed, of `hidden` [T, hidden].

        `logits_of` makes logits [R, V] of some of its rows.
        """
        start = 0
        for sequence, num_tokens in step.items():
            if sequence.wants_prompt_logprobs:
                self._note(sequence, hidden[start : start + num_tokens], logits_of)
            start += num_tokens

    def _note(
        self, sequence: EngineSequence, hidden: Tensor, logits_of: Callable[[Tensor], Tensor]
    ) -> None:
        first, num_top = sequence.num_computed, sequence.params.num_prompt_logprobs or 0
        found = self._found.setdefault(sequence.id, {})
        targets = sequence.token_ids[first + 1 : sequence.num_prompt_tokens]
        for rows in torch.split(hidden[: len(targets)], PROMPT_ROWS):
            ids, targets = targets[: len(rows)], targets[len(rows) :]
            described = _describe(_log_softmax(logits_of(rows)), ids, [num_top] * len(rows))
            found.update(enumerate(described, start=first + 1))
            first += len(rows)

    def take(self, sequence: EngineSequence) -> list[TokenLogprob]:
        """Those of a sequence, from its prompt's second token on. It wants no more."""
        sequence.wants_prompt_logprobs = False
        found = self._found.pop(sequence.id, {})
        return [found[position] for position in sorted(found)]

    def forget(self, sequence_id: str) -> None:
        """Nobody waits for them any more."""
        self._found.pop(sequence_id, None)


def add_logprobs(
    step: Step,
    outputs: Sequence[SequenceOutput],
    logprobs: dict[int, TokenLogprob],
    prompts: PromptLogprobs,
) -> list[SequenceOutput]:
    """A step's outputs, which are in the order of `step.sampled`, with what was asked for."""
    described = list(outputs)
    for place, index in enumerate(step.sampled):
        sequence, output = step.sequences[index], outputs[place]
        new = [logprobs[place]] if place in logprobs and output.token_ids else []
        prompt = prompts.take(sequence) if sequence.wants_prompt_logprobs else []
        if new or prompt:
            described[place] = msgspec.structs.replace(output, logprobs=new, prompt_logprobs=prompt)
    return described


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1)


def _describe(
    logprobs: Tensor, token_ids: Sequence[int], nums_top: Sequence[int]
) -> list[TokenLogprob]:
    """For each row of `logprobs` [R, V]: that of its token, and its `nums_top[r]` most probable."""
    if not token_ids:
        return []
    num_top = min(max(nums_top), logprobs.shape[-1])
    index = torch.tensor(list(token_ids)).to(logprobs.device, non_blocking=True)
    top = logprobs.topk(num_top, dim=-1)
    # Beside each other, for one wait.
    found = torch.cat([logprobs.gather(-1, index[:, None]), top.values], dim=-1).tolist()
    rows = zip(found, top.indices.tolist(), nums_top, strict=True)
    return [
        TokenLogprob(own, tuple(zip(ids[:num], values[:num], strict=True)))
        for (own, *values), ids, num in rows
    ]
