"""A job that may be in the queue without our knowing is taken out again."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from api.admission import Accepted, RateLimited
from api.auth import Tenant
from api.broker import JobView
from api.config import ApiConfig
from api.errors import ApiError
from api.exchange import EXCHANGE_KEY
from api.submission import Submission
from api.wishes import Wishes
from workers.contract import Job, Sampling

JOB = Job(
    id="j",
    kind="completion",
    model="m",
    home="A",
    created_s=1,
    prompts=["a"],
    sampling=Sampling(seed=1),
)


class Queue:
    """The broker, as far as it matters here: what an enqueue ends with, what was cancelled."""

    def __init__(self, end, known=None):
        self.end = end
        self.known = known
        self.cancelled: list[str] = []
        self.jobs: list[Job] = []

    async def enqueue(self, job, queue, terms):
        self.jobs.append(job)
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    def cancel_soon(self, job, queue, *, whoever_reads):
        assert whoever_reads, "our own reader is there already"
        self.cancelled.append(job.id)

    async def view(self, job_id):
        return None if self.known is None else JobView(self.known, None)


class Reply:
    def __init__(self):
        self.headers: dict[str, str] = {}

    def set_header(self, name, value):
        self.headers[name] = value

    def set_headers(self, headers):
        self.headers |= headers


async def submit(queue, wishes=None, headers=None, trace=None, **tenant):
    given = headers or {}
    context = SimpleNamespace(
        tenant=Tenant("t", **tenant), wishes=wishes or Wishes(), started_s=time.monotonic()
    )
    exchange = SimpleNamespace(trace=trace or {})
    request: Any = SimpleNamespace(
        context=context, path="/r", get_header=given.get, scope={EXCHANGE_KEY: exchange}
    )
    reply: Any = Reply()
    config = ApiConfig(webhook_secret="whsec_" + "A" * 32)
    job = await Submission(queue, config).submit(request, reply, JOB, "q", None)
    return job, reply.headers


AWAY = ApiError("queue_unavailable", "away")
FULL = ApiError("queue_full", "full")


@pytest.mark.parametrize(
    ("end", "wishes", "cancelled"),
    [
        (AWAY, Wishes(), ["j"]),
        (AWAY, Wishes(is_async=True), ["j"]),
        (AWAY, Wishes(idempotency_key="k", digest="d"), []),
        (FULL, Wishes(), []),
        (asyncio.CancelledError(), Wishes(), ["j"]),
    ],
    ids=["reply lost", "asynchronous", "with a key, to be found again", "refused", "stopped"],
)
async def test_a_job_nobody_knows_of_is_cancelled(end, wishes, cancelled):
    queue = Queue(end)
    with pytest.raises(type(end)):
        await submit(queue, wishes)
    assert queue.cancelled == cancelled


async def test_a_job_that_is_in_the_queue_is_named():
    job, headers = await submit(Queue(Accepted("j", True)))
    assert (job.id, job.tenant, job.endpoint) == ("j", "t", "/r")
    assert headers == {"x-job-id": "j"}


async def test_a_job_carries_the_trace_of_its_request():
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    job, _ = await submit(Queue(Accepted("j", True)), trace=trace)
    assert job.trace == trace


async def test_what_is_left_is_told():
    _, headers = await submit(Queue(Accepted("j", True, 4, None)), requests_per_min=5)
    assert headers["x-ratelimit-remaining-requests"] == "4"
    assert "x-ratelimit-remaining-tokens" not in headers


async def test_an_earlier_job_answers_in_its_stead():
    earlier = Job(**{f: getattr(JOB, f) for f in JOB.__struct_fields__} | {"id": "earlier"})
    wishes = Wishes(idempotency_key="k", digest="d")
    job, headers = await submit(Queue(Accepted("earlier", False), earlier), wishes)
    assert job is earlier
    assert headers == {"x-job-id": "earlier", "idempotent-replayed": "true"}


async def test_an_earlier_job_that_is_no_more_is_404():
    wishes = Wishes(idempotency_key="k", digest="d")
    with pytest.raises(ApiError) as caught:
        await submit(Queue(Accepted("earlier", False)), wishes)
    assert caught.value.code == "job_not_found"


async def test_a_limit_that_is_used_up_is_told_and_cancels_nothing():
    queue = Queue(RateLimited("requests", 7, 0, None))
    with pytest.raises(RateLimited):
        await submit(queue, requests_per_min=5)
    assert queue.cancelled == []


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [(Wishes(), ""), (Wishes(is_async=True), "https://example.com/hook")],
    ids=["waits", "does not wait"],
)
async def test_only_who_does_not_wait_has_a_webhook(wishes, expected):
    headers = {"x-webhook-url": "https://example.com/hook"}
    job, _ = await submit(Queue(Accepted("j", True)), wishes, headers)
    assert job.webhook == expected
