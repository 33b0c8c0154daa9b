"""Which shape a job's events take: that of the endpoint which it came in by. Knows no HTTP."""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from api.answer import Answer
from api.anthropic.stream import MessageFrames
from api.anthropic.view import MessageView
from api.response.conversation import is_response
from api.response.stream import NOTHING_MISSING, ResponseFrames
from api.response.view import ResponseView
from api.stream import Frames
from api.vector_view import VectorFrames, view_of
from workers import contract


class Renderer(Protocol):
    """A job's events as SSE frames."""

    @property
    def ping(self) -> bytes:
        """What keeps an idle stream alive."""
        ...

    def render(self, events: Iterable[contract.Event]) -> bytes:
        """The frames of these events, in one piece; without events those of the beginning."""
        ...


class Whole(Protocol):
    """A job's events as one whole answer."""

    failed: contract.Failed | None

    def add(self, events: Iterable[contract.Event]) -> None:
        """Take in the next events of the log."""
        ...

    def check(self) -> None:
        """Raise the ApiError that the job ended with, if it did."""
        ...

    def response(self) -> msgspec.Struct:
        """What has been said so far, as OpenAI's object."""
        ...


def frames_of(job: contract.Job, fingerprint: str = "", after: int = -1) -> Renderer:
    """The frames of a job's stream behind number `after`."""
    if numbers_frames(job):
        return _numbered(job, after)
    if job.makes_vectors:
        return VectorFrames(job, after)
    return Frames(job, fingerprint, after)


def answer_of(job: contract.Job, fingerprint: str = "") -> Whole:
    """The whole answer of a job."""
    if _is_message(job):
        return MessageView(job)
    if job.makes_vectors:
        return view_of(job)
    return ResponseView(job) if is_response(job) else Answer(job, fingerprint)


def numbers_frames(job: contract.Job) -> bool:
    """True if frames have numbers of their own, which are not those of the log's events."""
    return is_response(job) or _is_message(job)


def last_number(job: contract.Job, events: Iterable[contract.Event]) -> int:
    """The number of the newest frame of a job that `numbers_frames`."""
    frames = _numbered(job, NOTHING_MISSING)
    frames.render(events)
    return frames.last_number


def _numbered(job: contract.Job, after: int) -> MessageFrames | ResponseFrames:
    return MessageFrames(job, after) if _is_message(job) else ResponseFrames(job, after)


def _is_message(job: contract.Job) -> bool:
    return job.endpoint == contract.MESSAGES
