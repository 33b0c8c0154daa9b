"""The jobs of all tenants: find one, show it, stop it, end one that waited too long.

Knows jobs and logs, no HTTP.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from api.broker import CANCELLED, Broker, Whom
from api.delivery import Reader
from api.errors import ApiError
from api.job_view import JobObject, Standing, job_object
from workers import contract

WAIT_KIND = "wait"  # of the chores
STOP_S = 3.0  # how long a cancelled job is waited for
LOOK_AGAIN_S = 5.0  # at a job that is to end and has a worker, alive or not


class JobStore:
    """Every tenant sees its own jobs only."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._status_script = broker.redis.register_script(contract.load_script("status"))

    async def find(self, job_id: str, tenant: str) -> Standing:
        """Where a job stands. Raises ApiError `job_not_found`, whatever the reason."""
        standing = await self.find_any(job_id)
        if standing.job.tenant != tenant:
            raise unknown(job_id)
        return standing

    async def find_any(self, job_id: str) -> Standing:
        """Where a job stands, whosever it is. Raises ApiError `job_not_found`."""
        standing = await self._standing(job_id)
        if standing is None:
            raise unknown(job_id)
        return standing

    async def show(self, standing: Standing) -> JobObject:
        """The job with what it has said. Raises ApiError."""
        events: list[contract.Event] = []
        if standing.last is not None or standing.is_held:
            events = await self._broker.read_log(standing.job.id)
        return job_object(standing, events, await self.fingerprint(standing.job.model))

    async def fingerprint(self, model: str) -> str:
        """The engine that serves a model, as answers name it; empty if nobody serves it now."""
        card = (await self._broker.directory()).card(model)
        return "" if card is None else card.fingerprint

    async def stop(self, job: contract.Job) -> None:
        """Cancel a job and wait a while for its end; one that has ended stays as it is.

        Raises ApiError, also when it was cancelled and there is no room to wait for it.
        """
        await self._broker.cancel(job, contract.queue_key(job.model))
        reader = Reader(job.id, wakes_at_end=True)
        self._broker.open(reader, job.home)
        try:
            await self.end_of(reader, STOP_S)  # its worker may be dead; its next one will see it
        finally:
            self._broker.release(reader, job.home)

    async def end_of(self, reader: Reader, timeout_s: float) -> None:
        """Return when the job of an open reader has ended, `timeout_s` have passed, or nobody
        waits any more.
        """
        self._broker.relay.ask(reader)
        try:
            async with asyncio.timeout(timeout_s):
                await reader.collect(lambda events: None, self._broker.relay.ask)
        except TimeoutError:
            return

    async def expire_wait(self, job_id: str) -> float | None:
        """End a job that no worker took in time: the handler of the chores `wait:{job}`.

        A job that has started, or even ended, is left alone. One that was cancelled, whose
        deadline has passed, or whose record is about to expire is looked at until it is over: its
        worker ends it, and if that is dead we do. Raises ApiError.
        """
        found, is_cancelled, (now_s, now_us) = await self._broker.call(
            lambda: self._read_wait(job_id)
        )
        spec, queue, queued_ms, deadline_ms = found
        if spec is None or queue is None:
            return None
        job, now_ms = contract.decode_job(spec), now_s * 1000 + now_us // 1000
        failed = CANCELLED
        if not is_cancelled:
            failed = _expired(job, now_ms, int(queued_ms or 0), int(deadline_ms or 0))
        is_due = failed.code != "no_workers"
        whom: Whom = "waiting" if is_due else "unstarted"
        await self._broker.end_waiting(job, queue.decode(), failed, whom)
        return LOOK_AGAIN_S if is_due and await self._is_queued(job_id, queue) else None

    async def _is_queued(self, job_id: str, queue: bytes) -> bool:
        score = await self._broker.call(lambda: self._broker.redis.zscore(queue, job_id))
        return score is not None

    async def _standing(self, job_id: str) -> Standing | None:
        names = [contract.job_key(job_id), contract.lease_key(job_id), contract.log_key(job_id)]
        reply = await self._broker.call(lambda: self._status_script(names, [job_id]))
        return standing_of(reply) if reply else None

    async def _read_wait(self, job_id: str) -> Sequence[Any]:
        async with self._broker.redis.pipeline(transaction=False) as pipe:
            fields = ["spec", "queue", "queued_ms", "deadline_ms"]
            pipe.hmget(contract.job_key(job_id), fields)
            pipe.exists(contract.cancel_key(job_id))
            pipe.time()
            return await pipe.execute()


def standing_of(reply: Sequence[Any]) -> Standing | None:
    """What the status script said of a job; None if it has ended and nobody knows how any more.

    Raises ApiError for a record that cannot be read.
    """
    spec, last, is_held, place, eta_ms, *rest = reply
    queued_ms, started_ms, finished_ms, attempts, crashes, _, is_dead = rest
    if finished_ms and not last:
        return None  # the log expired first
    try:
        job = contract.decode_job(spec)
    except contract.WireError as error:
        raise ApiError("internal_error", str(error)) from error
    return Standing(
        job=job,
        last=contract.decode_event(last) if last else None,
        is_held=bool(is_held),
        place=int(place) or None,
        eta_ms=None if int(eta_ms) < 0 else int(eta_ms),
        queued_ms=_ms(queued_ms),
        started_ms=_ms(started_ms),
        finished_ms=_ms(finished_ms),
        attempts=int(attempts),
        crashes=int(crashes),
        is_dead=bool(is_dead),
    )


def unknown(job_id: str) -> ApiError:
    """The error for a job that is not there, or not the tenant's."""
    return ApiError("job_not_found", f"There is no job '{job_id[:80]}', or it has expired.")


def _ms(text: bytes) -> int | None:
    return int(text) if text else None


def _expired(job: contract.Job, now_ms: int, queued_ms: int, deadline_ms: int) -> contract.Failed:
    if 0 < deadline_ms <= now_ms:
        what = "The deadline passed before a worker took the request."
        return contract.Failed(0, "deadline_exceeded", what)
    if job.is_detached:  # it waits for as long as its record lives
        return contract.Failed(0, "job_expired", "The request waited too long and was given up.")
    waited_s = max(0, now_ms - queued_ms) // 1000
    return contract.Failed(0, "no_workers", f"No worker took the request within {waited_s} s.")
