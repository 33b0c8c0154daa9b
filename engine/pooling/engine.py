"""The engine of vectors: queues texts, packs whole ones into a forward, sends their vectors.

Knows no text, no HTTP, no queue outside of its own.
"""

import logging
from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from engine.config import EngineConfig, SamplingParams
from engine.encoders.batch import Packed, pack
from engine.errors import InvalidInput, LoadError, OutOfMemory, PromptTooLong
from engine.memory import memory_of
from engine.messages import EngineInfo, EngineStats, SequenceOutput, SequenceRequest
from engine.shortage import is_shortage, no_memory
from engine.step_budget import StepBudget

logger = logging.getLogger(__name__)


_TRIAL = SequenceRequest(id="", prompt_ids=[0], params=SamplingParams(max_tokens=1))


class States(Protocol):
    """Makes states of tokens."""

    def __call__(self, batch: Packed) -> Tensor:
        """The last state of each token [T, H]."""


class Head(Protocol):
    """Makes vectors of states."""

    size: int

    def __call__(self, hidden: Tensor, batch: Packed) -> Tensor:
        """States [T, H] to a vector of each sequence [S, size] float32."""


class PoolingEngine:
    """A loaded model and the texts that wait for it; satisfies `EngineLike`. For one thread.

    A text runs whole, in one step, and leaves nothing behind. A step takes the oldest, and those
    behind it as long as all of them have no more tokens than `max_num_batched_tokens`; `max_seqs`
    is no bound, as a text that waits costs no more than one that runs. One that does not fit the
    memory gives nothing, and the next are smaller; a text that does not fit alone is an error.
    """

    is_requantizing = False

    def __init__(
        self,
        states: States,
        head: Head,
        info: EngineInfo,
        config: EngineConfig,
        device: torch.device,
        num_types: int = 0,
    ) -> None:
        """`num_types` is how many types of tokens the model tells apart."""
        self.info = info
        self._states = states
        self._head = head
        self._budget = StepBudget(config.max_num_batched_tokens)
        self._device = device
        self._num_types = num_types
        self._waiting: dict[str, SequenceRequest] = {}

    def add(self, request: SequenceRequest) -> None:
        """Queue a text. Raises PromptTooLong or InvalidInput if it can never run."""
        ids = request.prompt_ids
        if not ids:
            raise InvalidInput("The input has no tokens.", "input")
        if len(ids) > self.info.context_length:
            raise PromptTooLong(len(ids), self.info.context_length, "input")
        _check_below(self.info.vocab_size, ids, "token id")
        if request.type_ids and len(request.type_ids) != len(ids):
            raise InvalidInput(
                f"{len(request.type_ids)} token types are given for {len(ids)} tokens.", "type_ids"
            )
        if self._num_types > 1:
            _check_below(self._num_types, request.type_ids, "token type")
        if request.id in self._waiting:
            raise InvalidInput(f"A sequence with the id {request.id!r} is already here.")
        self._waiting[request.id] = request

    def cancel(self, sequence_id: str) -> None:
        """Forget a text; unknown ids are ignored."""
        self._waiting.pop(sequence_id, None)

    def has_work(self) -> bool:
        """True while a text waits."""
        return bool(self._waiting)

    def step(self) -> list[SequenceOutput]:
        """One forward for what fits the token budget, all of which ends.

        Raises OutOfMemory when not even one token fits: all texts wait then.
        """
        requests = self._take()
        if not requests:
            return []
        outputs = self._try(requests)
        if outputs is None:
            return self._give_way(requests)
        self._budget.note_good()
        return outputs

    def _try(self, requests: list[SequenceRequest]) -> list[SequenceOutput] | None:
        """None if they do not fit the memory together."""
        try:
            return self._run(requests)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            logger.warning("%s", str(error).partition("\n")[0])
        return None  # only now is the error gone, and with it all that its frames hold

    @torch.inference_mode()
    def _run(self, requests: list[SequenceRequest]) -> list[SequenceOutput]:
        # A model without types of its own is given pairs like any other text.
        types = [request.type_ids if self._num_types > 1 else [] for request in requests]
        batch = pack([request.prompt_ids for request in requests], types, self._device)
        vectors = self._head(self._states(batch), batch).float().cpu().numpy().astype("<f4")
        return [
            SequenceOutput(id=request.id, finish="stop", vector=vector.tobytes())
            for request, vector in zip(requests, vectors, strict=True)
        ]

    def _give_way(self, requests: list[SequenceRequest]) -> list[SequenceOutput]:
        """What follows where `requests` do not fit: smaller steps, or the end of a single one."""
        num_tokens = sum(len(request.prompt_ids) for request in requests)
        is_alone = len(requests) == 1
        if is_alone and self._try([_TRIAL]) is not None:
            return [SequenceOutput(id=requests[0].id, error=_too_long(num_tokens))]
        self._waiting = {request.id: request for request in requests} | self._waiting
        if is_alone:
            raise OutOfMemory(no_memory(self._device))
        self._budget.shrink(num_tokens)
        logger.warning(
            "a step of %d tokens does not fit the memory of %s (%s): for a while none has more "
            "than %d but for single texts; a lower --max-num-batched-tokens would spare that",
            num_tokens,
            self._device,
            memory_of(self._device),
            self._budget.now,
        )
        return []

    def _take(self) -> list[SequenceRequest]:
        """The oldest, one at least, as many as the budget holds."""
        taken: list[SequenceRequest] = []
        num_tokens = 0
        for request in self._waiting.values():
            num_tokens += len(request.prompt_ids)
            if taken and num_tokens > self._budget.now:
                break
            taken.append(request)
        for request in taken:
            del self._waiting[request.id]
        return taken

    def requantize(self, isq: str) -> None:
        """Raises LoadError: that is for models that generate."""
        raise LoadError(
            f"An engine for the task {self.info.task} cannot change the type of its weights while "
            "it runs; start the worker again with another --isq."
        )

    def take_weights(self) -> str | None:
        """None: there are no new ones."""
        return None

    def stats(self) -> EngineStats:
        """Gauges now: between two steps nothing runs."""
        return EngineStats(waiting=len(self._waiting))


def _too_long(num_tokens: int) -> tuple[str, str]:
    message = (
        f"An input of {num_tokens} tokens does not fit the memory that the server has left; "
        "send shorter ones."
    )
    return OutOfMemory.code, message


def _check_below(limit: int, values: Collection[int], what: str) -> None:
    if values and not 0 <= min(values) <= max(values) < limit:
        bad = min(values) if min(values) < 0 else max(values)
        raise InvalidInput(f"{bad} is no {what}; this model's are 0 to {limit - 1}.", "input")
