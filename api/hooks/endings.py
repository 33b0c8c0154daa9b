"""What follows when a job has ended: its webhook is noted, and the batch that it is part of hears.

Knows neither how a webhook is delivered nor what a batch is.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from redis.asyncio import Redis

from api.call import Call
from api.hooks.webhooks import Notice
from api.response.conversation import is_response
from workers import contract

logger = logging.getLogger(__name__)

ENDED_KIND = "ended"  # of the chores
_TAIL = 16  # the last entries of a log: its end, and the finish reason a few before it

Announce = Callable[[Notice], Awaitable[None]]
OnLine = Callable[[contract.Job], Awaitable[None]]


class Endings:
    """The handler of the chores `ended:{job}`.

    `on_line` hears of every line of a batch that ended, at least once; set it before `run`.
    """

    def __init__(self, redis: Redis, call: Call, announce: Announce) -> None:
        self._redis = redis
        self._call = call
        self._announce = announce
        self.on_line: OnLine | None = None

    async def handle(self, job_id: str) -> None:
        """Tell who has to know. Raises ApiError while Redis is away, WireError for a bad record."""
        spec, entries = await self._call(lambda: self._read(job_id))
        if spec is None:
            logger.warning("job %s ended, but its record is gone: nobody is told", job_id)
            return
        job = contract.decode_job(spec)
        events = [contract.decode_event(entry) for entry in entries]
        if not events or not contract.is_terminal(events[-1]):
            return  # an operator started it again: it will end again
        if job.batch:
            await self._tell_batch(job)
        if job.webhook:
            await self._announce(_notice(job, events))

    async def _tell_batch(self, job: contract.Job) -> None:
        assert self.on_line is not None, "nobody handles lines of batches"
        await self.on_line(job)

    async def _read(self, job_id: str) -> tuple[bytes | None, list[bytes]]:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(contract.job_key(job_id), "spec")
            pipe.lrange(contract.log_key(job_id), -_TAIL, -1)
            spec, entries = await pipe.execute()
        return spec, entries


def _notice(job: contract.Job, events: Sequence[contract.Event]) -> Notice:
    end = events[-1]
    assert isinstance(end, contract.Done | contract.Failed)
    return Notice(
        subject=job.id,
        type=event_type(job, events),
        url=job.webhook,
        tenant=job.tenant,
        occasion=str(end.offset),
        created_s=int(time.time()),
    )


def batch_notice(batch_id: str, *, status: str, tenant: str, url: str, ended_s: int) -> Notice:
    """The end of a batch, `status` as OpenAI names it, for `Webhooks.announce`."""
    return Notice(
        subject=batch_id,
        type=f"batch.{status}",
        url=url,
        tenant=tenant,
        occasion=status,
        created_s=ended_s,
    )


def event_type(job: contract.Job, events: Sequence[contract.Event]) -> str:
    """What the end of a log is called: OpenAI's names for a response, `job.…` for the others."""
    end = events[-1]
    family = "response" if is_response(job) else "job"
    if isinstance(end, contract.Failed):
        return f"{family}.cancelled" if end.code == "cancelled" else f"{family}.failed"
    if is_response(job) and any(_is_cut(event) for event in events):
        return "response.incomplete"
    return f"{family}.completed"


def _is_cut(event: contract.Event) -> bool:
    return isinstance(event, contract.Tokens) and any(d.finish == "length" for d in event.deltas)
