"""Which shape a job's events take: that of the endpoint which it came in by. Knows no HTTP."""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from api.answer import Answer
from api.response.conversation import is_response
from api.response.stream import ResponseFrames
from api.response.view import ResponseView
from api.stream import Frames
from workers import contract


class Renderer(Protocol):
    """A job's events as SSE frames."""

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
    if is_response(job):
        return ResponseFrames(job, after)
    return Frames(job, fingerprint, after)


def answer_of(job: contract.Job, fingerprint: str = "") -> Whole:
    """The whole answer of a job."""
    return ResponseView(job) if is_response(job) else Answer(job, fingerprint)
