"""The engine of vectors: queues texts, packs whole ones into a forward, sends their vectors.

Knows no text, no HTTP, no queue outside of its own.
"""

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.encoders.batch import Packed, pack
from engine.errors import InvalidInput, LoadError, PromptTooLong
from engine.messages import EngineInfo, EngineStats, SequenceOutput, SequenceRequest


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
    is no bound, as a text that waits costs no more than one that runs.
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
        self._budget = config.max_num_batched_tokens
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

    @torch.inference_mode()
    def step(self) -> list[SequenceOutput]:
        """One forward for what fits the token budget, all of which ends."""
        requests = self._take()
        if not requests:
            return []
        # A model without types of its own is given pairs like any other text.
        types = [request.type_ids if self._num_types > 1 else [] for request in requests]
        batch = pack([request.prompt_ids for request in requests], types, self._device)
        vectors = self._head(self._states(batch), batch).float().cpu().numpy().astype("<f4")
        return [
            SequenceOutput(id=request.id, finish="stop", vector=vector.tobytes())
            for request, vector in zip(requests, vectors, strict=True)
        ]

    def _take(self) -> list[SequenceRequest]:
        """The oldest, one at least, as many as the budget holds."""
        taken: list[SequenceRequest] = []
        num_tokens = 0
        for request in self._waiting.values():
            num_tokens += len(request.prompt_ids)
            if taken and num_tokens > self._budget:
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


def _check_below(limit: int, values: Collection[int], what: str) -> None:
    if values and not 0 <= min(values) <= max(values) < limit:
        bad = min(values) if min(values) < 0 else max(values)
        raise InvalidInput(f"{bad} is no {what}; this model's are 0 to {limit - 1}.", "input")
