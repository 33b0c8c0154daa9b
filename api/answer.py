"""A job's events as one whole answer, pure. Knows no HTTP, no Redis and no clock."""

from collections.abc import Iterable
from typing import Any

from api.errors import ApiError
from api.heard import Heard
from api.logprobs import TextOffsets, chat_logprobs
from api.schema.response import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    TextChoice,
    TextCompletion,
    TextLogprobs,
    Usage,
)
from workers import contract


class Answer:
    """The same events as one whole answer."""

    def __init__(self, job: contract.Job, fingerprint: str = "") -> None:
        self.failed: contract.Failed | None = None
        self._job = job
        self._fingerprint = fingerprint
        self._heard = [Heard() for _ in range(job.num_choices)]
        self._finishes: list[str | None] = [None] * job.num_choices
        self._told: list[list[contract.TokenLogprob]] = [[] for _ in range(job.num_choices)]
        self._has_logprobs = job.sampling.logprobs is not None and not job.hides_logprobs
        self._scores = [_Score() for _ in range(job.num_choices)]
        self._usage: contract.Usage | None = None

    def add(self, events: Iterable[contract.Event]) -> None:
        """Take in the next events of the log."""
        for event in events:
            if isinstance(event, contract.Tokens):
                self._add_tokens(event)
            elif isinstance(event, contract.Done):
                self._usage = event.usage
            elif isinstance(event, contract.Failed):
                self.failed = event

    def check(self) -> None:
        """Raise the ApiError that the job ended with, if it did."""
        if self.failed is not None:
            raise ApiError.of(self.failed)

    def response(self) -> ChatCompletion | TextCompletion:
        """What has been said so far, as OpenAI's completion object."""
        head: dict[str, Any] = {
            "id": self._job.id,
            "created": self._job.created_s,
            "model": self._job.model,
            "usage": None if self._usage is None else Usage.of(self._usage),
            "system_fingerprint": self._fingerprint or None,
        }
        if self._job.kind == "chat":
            return ChatCompletion(choices=self._chat_choices(), **head)
        return TextCompletion(choices=self._text_choices(), **head)

    def _chat_choices(self) -> list[ChatChoice]:
        return [
            ChatChoice(i, heard.message(), self._finishes[i], self._chat_logprobs(i))
            for i, heard in enumerate(self._heard)
        ]

    def _text_choices(self) -> list[TextChoice]:
        return [
            TextChoice(i, self._heard[c].text, self._finishes[c], self._text_logprobs(c))
            for i, c in enumerate(self._shown())
        ]

    def _shown(self) -> list[int]:
        """The numbers of the answers to show: all, or of each prompt the `best`."""
        num_each, best = self._job.n, self._job.best
        if not best:
            return list(range(self._job.num_choices))
        shown: list[int] = []
        for first in range(0, self._job.num_choices, num_each):
            group = range(first, first + num_each)
            shown += sorted(group, key=lambda c: self._scores[c].mean, reverse=True)[:best]
        return shown

    def _chat_logprobs(self, choice: int) -> ChatLogprobs | None:
        return chat_logprobs(self._told[choice]) if self._has_logprobs else None

    def _text_logprobs(self, choice: int) -> TextLogprobs | None:
        return TextOffsets().logprobs(self._told[choice]) if self._has_logprobs else None

    def _add_tokens(self, event: contract.Tokens) -> None:
        for delta in event.deltas:
            self._heard[delta.choice].add(delta)
            self._finishes[delta.choice] = delta.finish or self._finishes[delta.choice]
            self._told[delta.choice] += delta.logprobs or ()
            if self._job.best and not delta.is_prompt:
                self._scores[delta.choice].add(delta.logprobs or ())


class _Score:
    """The mean log-probability of an answer's tokens."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, told: Iterable[contract.TokenLogprob]) -> None:
        for item in told:
            self._sum += item.logprob or 0.0
            self._count += 1

    @property
    def mean(self) -> float:
        return self._sum / max(self._count, 1)
