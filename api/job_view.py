"""A job as its client sees it: GET /v1/jobs/{id}. Pure; knows no HTTP, no Redis and no clock."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from api.errors import ApiError, ErrorBody
from api.shape import answer_of
from workers import contract

State = Literal["queued", "running", "completed", "failed", "cancelled", "dead"]


class Standing(NamedTuple):
    """Where a job stands. Times are ms since 1970; None: it has not come to that, or nobody knows.

    `place` counts from 1 among what waits in the job's class; `is_dead` is a dead letter's.
    """

    job: contract.Job
    last: contract.Event | None = None
    is_held: bool = False  # by a worker
    place: int | None = None
    eta_ms: int | None = None
    queued_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    attempts: int = 0
    crashes: int = 0
    is_dead: bool = False

    @property
    def last_number(self) -> int | None:
        """The number of the job's last event, None while more may come."""
        return self.last.offset if isinstance(self.last, contract.Done | contract.Failed) else None

    @property
    def is_over(self) -> bool:
        """True if the job has ended."""
        return self.last_number is not None


class Queue(msgspec.Struct, frozen=True):
    """Where a job waits: its place from 1 on, and how long it will wait, as far as that is known.

    Other classes may be served first or later, so the place is no promise.
    """

    position: int
    eta_ms: int | None


class Timings(msgspec.Struct, frozen=True):
    """When a job came, started and ended (ms since 1970), how long it waited and ran (ms).

    An end is in the log a moment before its time is known.
    """

    queued_ms: int | None
    started_ms: int | None
    finished_ms: int | None
    wait_ms: int | None
    run_ms: int | None


class JobObject(msgspec.Struct, frozen=True, kw_only=True):
    """`result` is the whole answer of a completed job, `partial` what any other has said so far,
    both in the form of the endpoint that the job came in by.
    """

    id: str
    object: Literal["job"] = "job"
    state: State
    model: str
    endpoint: str
    created_at: int
    queue: Queue | None
    timings: Timings
    attempts: int
    partial: msgspec.Struct | None
    result: msgspec.Struct | None
    error: ErrorBody | None
    metadata: dict[str, str]


def state_of(standing: Standing, last: contract.Event | None) -> State:
    """A job's state, given the last event of its log."""
    if isinstance(last, contract.Done):
        return "completed"
    if isinstance(last, contract.Failed):
        if standing.is_dead:
            return "dead"
        return "cancelled" if last.code == "cancelled" else "failed"
    return "running" if standing.is_held else "queued"


def job_object(
    standing: Standing, events: Sequence[contract.Event], fingerprint: str = ""
) -> JobObject:
    """The job with what its log, which may be newer than `standing`, says."""
    job = standing.job
    last = events[-1] if events else standing.last
    state = state_of(standing, last)
    answer = answer_of(job, fingerprint)
    answer.add(events)
    response = answer.response() if events else None
    failed = last if isinstance(last, contract.Failed) else None
    return JobObject(
        id=job.id,
        state=state,
        model=job.model,
        endpoint=job.endpoint,
        created_at=job.created_s,
        queue=_queue(standing) if state == "queued" else None,
        timings=_timings(standing),
        attempts=standing.attempts,
        partial=None if state == "completed" else response,
        result=response if state == "completed" else None,
        error=None if failed is None else ApiError.of(failed).response().error,
        metadata=job.metadata,
    )


def _queue(standing: Standing) -> Queue | None:
    return None if standing.place is None else Queue(standing.place, standing.eta_ms)


def _timings(standing: Standing) -> Timings:
    queued, started, finished = standing.queued_ms, standing.started_ms, standing.finished_ms
    return Timings(
        queued,
        started,
        finished,
        _between(queued, started or finished),
        _between(started, finished),
    )


def _between(start_ms: int | None, end_ms: int | None) -> int | None:
    return None if start_ms is None or end_ms is None else max(0, end_ms - start_ms)
