"""On what terms a job enters the queue, and what the enqueue script's answers mean.

Knows no HTTP and no Redis.
"""

from collections.abc import Sequence
from typing import NamedTuple

from api.errors import ApiError
from workers import contract, keys

ADMITTED, ID_TAKEN, SAME_KEY = 1, 0, 2
FLEET_FULL, TENANT_FULL, RATE_LIMITED, DEADLINE_UNMEETABLE, KEY_CONFLICT = -1, -2, -3, -4, -5
GIVEN_UP = -6


class Terms(NamedTuple):
    """What a request brings beside its job. 0 and "" stand for none.

    `deadline_ms` and `wait_ms` (the longest wait for a worker) count from now on; `digest` is of
    the body that came with `idempotency_key`; the limits are its tenant's.
    """

    deadline_ms: int = 0
    wait_ms: int = 0
    idempotency_key: str = ""
    digest: str = ""
    tenant_jobs: int = 0
    requests_per_min: int = 0
    tokens_per_min: int = 0


class Bounds(NamedTuple):
    """How much may wait at all, and for how long it is kept."""

    max_jobs: int
    max_tokens: int  # estimated prompt tokens
    ttl_ms: int
    idempotency_ttl_ms: int


class RateLimited(ApiError):
    """A tenant's limit per minute is used up; what is left of both is None where there is none."""

    def __init__(
        self, what: str, retry_after_s: int, requests_left: int | None, tokens_left: int | None
    ) -> None:
        """`what` is counted: requests or tokens."""
        message = f"You have reached your limit of {what} per minute."
        super().__init__("rate_limit_exceeded", message, retry_after_s=retry_after_s)
        self.requests_left = requests_left
        self.tokens_left = tokens_left


class Accepted(NamedTuple):
    """The job that answers a request: its own, or (`is_new` False) the one its key began before.

    What is left of the tenant's limits is None where there is none.
    """

    job_id: str
    is_new: bool
    requests_left: int | None = None
    tokens_left: int | None = None


def admission(job: contract.Job, queue: str, terms: Terms, bounds: Bounds) -> contract.Admission:
    """What the enqueue script is told of a job."""
    return contract.Admission(
        id=job.id,
        tenant=job.tenant,
        service_class=job.service_class,
        home=job.home,
        cost=job.cost,
        prompt_tokens=job.prompt_tokens,
        wake=keys.wake_channel(queue),
        is_followed=bool(job.webhook or job.batch),
        is_line=bool(job.batch),
        ttl_ms=bounds.ttl_ms,
        max_jobs=bounds.max_jobs,
        max_tokens=bounds.max_tokens,
        deadline_ms=terms.deadline_ms,
        wait_ms=terms.wait_ms,
        tenant_jobs=terms.tenant_jobs,
        requests_per_min=terms.requests_per_min,
        tokens_per_min=terms.tokens_per_min,
        digest=terms.digest,
        digest_ttl_ms=bounds.idempotency_ttl_ms,
    )


def accepted(job_id: str, reply: Sequence[int | bytes]) -> Accepted:
    """The enqueue script's answer. Raises ApiError if it is a refusal."""
    code, *rest = reply
    if code == ADMITTED:
        return Accepted(job_id, True, *_left(rest))
    if code == ID_TAKEN:  # our own first try, whose reply was lost: ids are random
        return Accepted(job_id, True)
    if code == SAME_KEY:
        assert isinstance(rest[0], bytes)
        known = rest[0].decode()
        return Accepted(known, known == job_id)
    raise _refusal(int(code), rest)


def conflict() -> ApiError:
    """The error of an Idempotency-Key that comes with another body."""
    return ApiError("idempotency_conflict", "This Idempotency-Key was used for another request.")


def _left(reply: Sequence[int | bytes]) -> tuple[int | None, int | None]:
    requests, tokens = (None if int(left) == -1 else int(left) for left in reply)
    return requests, tokens


def _refusal(code: int, rest: Sequence[int | bytes]) -> ApiError:
    if code == FLEET_FULL:
        message = "Too many requests are waiting; try again soon."
        return ApiError("queue_full", message, retry_after_s=int(rest[0]))
    if code == TENANT_FULL:
        message = "Too many of your requests are waiting; try again when some have ended."
        return ApiError("tenant_queue_full", message, retry_after_s=int(rest[0]))
    if code == RATE_LIMITED:
        assert isinstance(rest[1], bytes)
        return RateLimited(rest[1].decode(), int(rest[0]), *_left(rest[2:]))
    if code == DEADLINE_UNMEETABLE:
        wait_s = int(rest[0]) / 1000
        message = f"The deadline cannot be met: the request would wait for {wait_s:.1f} s."
        return ApiError("deadline_unmeetable", message, retry_after_s=min(120, int(wait_s) + 1))
    if code == GIVEN_UP:
        return ApiError("cancelled", "The request was cancelled.")
    return conflict()
