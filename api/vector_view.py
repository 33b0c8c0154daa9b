"""A job's vectors as embeddings, scores or a ranking, whole or as they come. Pure.

Knows no HTTP, no Redis and no clock.
"""

import base64
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from operator import mul

import msgspec

from api.errors import ApiError
from api.schema.vectors import (
    DocumentText,
    Embedding,
    EmbeddingList,
    Ranked,
    RankedList,
    Score,
    ScoreList,
    VectorUsage,
)
from api.stream import DONE, PING, failed_frames
from workers import contract

_json = msgspec.json.Encoder().encode


class VectorView(ABC):
    """What all of them have. `item` is what one vector comes to, if it comes to anything alone."""

    def __init__(self, job: contract.Job) -> None:
        self.failed: contract.Failed | None = None
        self._job = job
        self._usage: VectorUsage | None = None

    def add(self, events: Iterable[contract.Event]) -> None:
        """Take in the next events of the log."""
        for event in events:
            if isinstance(event, contract.Vectors):
                for number, vector in enumerate(event.parts(), event.first):
                    self.item(number, vector)
            elif isinstance(event, contract.Done):
                tokens = event.usage.prompt_tokens
                self._usage = VectorUsage(tokens, tokens)
            elif isinstance(event, contract.Failed):
                self.failed = event

    def check(self) -> None:
        """Raise the ApiError that the job ended with, if it did."""
        if self.failed is not None:
            raise ApiError.of(self.failed)

    @abstractmethod
    def item(self, number: int, vector: bytes) -> msgspec.Struct | None:
        """Take in the vector of an input, the next one; what it adds to the answer."""

    @abstractmethod
    def response(self) -> msgspec.Struct:
        """What there is so far."""


class EmbeddingView(VectorView):
    """The answer of /v1/embeddings."""

    def __init__(self, job: contract.Job) -> None:
        super().__init__(job)
        self._items: list[Embedding] = []
        self._size: int | None = job.echo.get("dimensions")
        self._is_base64 = job.echo.get("format") == "base64"

    def item(self, number: int, vector: bytes) -> Embedding:
        """The embedding, cut and scaled as the request has it."""
        if self._size is not None:
            vector = _cut(vector, self._size)
        shown = base64.b64encode(vector).decode() if self._is_base64 else _numbers(vector)
        self._items.append(Embedding(number, shown))
        return self._items[-1]

    def response(self) -> EmbeddingList:
        """The embeddings so far."""
        return EmbeddingList(data=self._items, model=self._job.model, usage=self._usage)


class ScoreView(VectorView):
    """The answer of /v1/score. A scorer says the score; of embeddings it is the cosine."""

    def __init__(self, job: contract.Job) -> None:
        super().__init__(job)
        self._scores: list[float] = []
        self._queries: list[list[float]] = []  # scaled to length 1

    def item(self, number: int, vector: bytes) -> Score | None:
        """The pair's score; None for an embedded query."""
        numbers = _numbers(vector)
        if self._job.kind == "embedding":
            if number < self._job.num_queries:
                self._queries.append(_unit(numbers))
                return None
            number -= self._job.num_queries
            query = self._queries[number if len(self._queries) > 1 else 0]
            score = sum(map(mul, query, _unit(numbers)))
        else:
            score = numbers[0]
        self._scores.append(score)
        return Score(number, score)

    def response(self) -> msgspec.Struct:
        """The scores so far."""
        return ScoreList(
            id=self._job.id,
            created=self._job.created_s,
            model=self._job.model,
            data=list(map(Score, range(len(self._scores)), self._scores)),
            usage=self._usage,
        )


class RankingView(ScoreView):
    """The answer of /v1/rerank: the documents in the order of their scores."""

    def response(self) -> RankedList:
        """The documents so far."""
        order = sorted(range(len(self._scores)), key=self._scores.__getitem__, reverse=True)
        top_n = self._job.echo.get("top_n") or None
        return RankedList(
            id=self._job.id,
            model=self._job.model,
            results=[Ranked(i, self._scores[i], self._document(i)) for i in order[:top_n]],
            usage=self._usage,
        )

    def _document(self, number: int) -> DocumentText | None:
        if not self._job.echo.get("documents"):
            return None
        text = (self._job.prompts or [])[self._job.num_queries + number]
        assert isinstance(text, str)
        return DocumentText(text)


class VectorFrames:
    """Renders one client's stream of such a job: each item as it comes, then `[DONE]`.

    `after` is the last event number that the client has. A ranking comes as scores.
    """

    ping = PING

    def __init__(self, job: contract.Job, after: int = -1) -> None:
        self._view = view_of(job)
        self._after = after

    def render(self, events: Iterable[contract.Event]) -> bytes:
        """The frames of these events, in one piece; empty if there is nothing to show."""
        frames: list[bytes] = []
        for event in events:
            if isinstance(event, contract.Vectors):
                self._vectors(event, frames)
            elif isinstance(event, contract.Done):
                frames.append(b"id: %d\n%b" % (event.offset, DONE))
            elif isinstance(event, contract.Failed):
                frames.append(failed_frames(event))
        return b"".join(frames)

    def _vectors(self, event: contract.Vectors, frames: list[bytes]) -> None:
        for i, vector in enumerate(event.parts()):
            item = self._view.item(event.first + i, vector)
            if item is not None and event.offset + i > self._after:
                frames.append(b"id: %d\ndata: %b\n\n" % (event.offset + i, _json(item)))


def view_of(job: contract.Job) -> VectorView:
    """The whole answer of a job that makes vectors."""
    if not job.num_queries:
        return EmbeddingView(job)
    return RankingView(job) if job.endpoint in contract.RERANKS else ScoreView(job)


def _numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _unit(numbers: Sequence[float]) -> list[float]:
    """The vector scaled to length 1; one of nothing but zeros stays so."""
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]


def _cut(vector: bytes, size: int) -> bytes:
    """The vector's first `size` numbers, scaled to length 1: what OpenAI's `dimensions` means."""
    return struct.pack(f"<{size}f", *_unit(_numbers(vector[: 4 * size])))
