"""The arq worker: woken by pub/sub, claims in one script, ends only what it owns. Knows no token.

Of arq it uses the queue's format and `run_job`; README.md tells what it replaces and why.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, NamedTuple

from arq import func
from arq.connections import ArqRedis
from arq.worker import Worker

from workers.attempt import Failure, close_attempt
from workers.contract import ARQ_FUNCTION, ARQ_JOB_PREFIX, arq_retry_key
from workers.generate import begin, generate
from workers.lease import Claim, Claimed, Ending, read_claims
from workers.logs import without_message
from workers.redis_link import TRANSIENT, deserialize, serialize
from workers.run import INTERNAL_ERROR
from workers.service import Service

logger = logging.getLogger(__name__)

POLL_S = 0.5  # a safety net: a wake-up that was missed, a dead worker's lease that ran out
MAX_TRIES = 10  # attempts that crashed; graceful hand-backs are not counted
LOOKAHEAD = 0.25  # jobs beyond the engine's capacity, so that a free slot has work at once
HAND_BACK_S = 3.0
INTERRUPT_S = 0.05
ARQ_GRACE_S = 60


class Places(NamedTuple):
    """How many jobs to ask for: of any class, and only of those before which batch jobs yield."""

    any_class: int
    urgent: int


class EngineWorker(Worker):
    """Runs `generate` for as many jobs as the engine has room for, until `stop` or a lost part."""

    def __init__(self, service: Service, client: ArqRedis) -> None:
        config = service.config
        super().__init__(
            [
                func(
                    generate,
                    name=ARQ_FUNCTION,
                    timeout=config.job_ttl_s + ARQ_GRACE_S,
                    keep_result=0,
                    max_tries=MAX_TRIES,
                )
            ],
            queue_name=service.queue,
            redis_pool=client,
            handle_signals=False,
            max_jobs=max_jobs(service.info.max_seqs),
            keep_result=0,
            log_results=False,
            allow_abort_jobs=False,
            ctx={"service": service, "redis": client},
            job_serializer=serialize,
            job_deserializer=deserialize,
        )
        self.service = service
        self.leases = service.leases
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopped = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._drain_task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def stop(self) -> None:
        """Take no more, finish what fits in `drain_s`, hand back the rest. Twice: hand back now."""
        if self._drain_task is None:
            self.allow_pick_jobs = False
            self.service.pulse.is_draining = True
            self.service.pulse.nudge()
            self._drain_task = asyncio.create_task(self._drain())
        else:
            self._hurry.set()

    async def _drain(self) -> None:
        logger.info("stopping; %d jobs run", len(self.tasks))
        await _first_of(self._all_done(), self._hurry.wait(), timeout_s=self.service.config.drain_s)
        await self.hand_back()
        self._stopped.set()

    async def _all_done(self) -> None:
        while self.tasks:
            await asyncio.wait(self.tasks.values())

    async def hand_back(self) -> None:
        """Give up every job that runs, at its offset; if Redis is away, its lease will end."""
        self.allow_pick_jobs = False  # else we would take them again
        if self.tasks:
            logger.info("handing back %d jobs", len(self.tasks))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_BACK_S):
                await self._interrupt_all()

    async def _interrupt_all(self) -> None:
        """Cancel each `generate` once; one that is about to start, or is still being claimed, is
        caught a moment later.
        """
        told: set[asyncio.Task[Any]] = set()
        while self.tasks or self._claiming.locked():
            for task in set(self.job_tasks.values()) - told:
                told.add(task)
                task.cancel()
            if self.tasks:
                await asyncio.wait(self.tasks.values(), timeout=INTERRUPT_S)
            else:
                await asyncio.sleep(INTERRUPT_S)

    async def main(self, *background: Coroutine[Any, Any, None]) -> None:
        """Work until `stop`. The background loops only end by an error, which is raised."""
        loops = [asyncio.create_task(loop) for loop in (self._poll(), *background)]
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            done, _ = await asyncio.wait((stopped, *loops), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            if not self._stopped.is_set():
                await self.hand_back()
            for task in (stopped, *loops):
                task.cancel()
            await asyncio.gather(stopped, *loops, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            await self._poll_iteration()

    async def _poll_iteration(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        self._wake.clear()
        try:
            async with self._claiming:
                await self._claim(self._places())
        except TRANSIENT as error:
            logger.debug("cannot claim: %r", error)

    @property
    def num_free(self) -> int:
        """How many jobs there is room for; less than none if several choices each have taken it."""
        return self.max_jobs - self._num_taken if self._is_taking else 0

    @property
    def _is_taking(self) -> bool:
        service = self.service
        return self.allow_pick_jobs and service.engine.is_ready and service.token_log.has_room

    @property
    def _num_taken(self) -> int:
        return max(len(self.tasks), self.service.runs.num_places)

    @property
    def _num_idle(self) -> int:
        """Places of the engine itself that nobody has."""
        return max(self.service.info.max_seqs - self._num_taken, 0)

    def _places(self) -> Places:
        """Batch jobs get idle places of the engine; the others look ahead, or make them yield."""
        if not self._is_taking:
            return Places(0, 0)
        any_class = 0 if self.service.runs.is_tight else self._num_idle
        num_all = self.num_free + len(self._batch_claims())
        return Places(any_class, max(num_all - any_class, 0))

    def _batch_claims(self) -> list[Claim]:
        """Those that can give way, the earliest first."""
        claims = self.leases.claims.values()
        return [c for c in claims if c.service_class == "batch" and not c.gave_way]

    async def _claim(self, places: Places) -> None:
        if places.any_class + places.urgent <= 0:
            return
        if self.leases.is_stale:
            await self.leases.renew()
        args = [self.service.worker, *places, self.leases.lease_ms]
        taken = read_claims(
            await self.service.scripts.run("claim", keys=[self.queue_name], args=args)
        )
        self._make_room(len(taken) - self._num_idle)
        for job in taken:
            self._start(job)

    def _make_room(self, count: int) -> None:
        """Let so many batch jobs yield, the latest first."""
        if count > 0:
            for claim in self._batch_claims()[-count:]:
                claim.give_way()

    def _start(self, job: Claimed) -> None:
        job_id = job.id
        task = asyncio.create_task(self._run(job, self.tasks.get(job_id)))
        self.tasks[job_id] = task
        task.add_done_callback(partial(self._note_end, job_id))
        self.service.pulse.nudge()

    def _note_end(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self.tasks.get(job_id) is task:
            del self.tasks[job_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("job %s: %s", job_id, without_message(error))
        self.service.pulse.nudge()
        self.wake()

    async def _run(self, job: Claimed, earlier: asyncio.Task[None] | None) -> None:
        """One attempt, after an `earlier` one of our own whose lease ran out has ended."""
        job_id = job.id
        if earlier is not None:
            if (stale := self.leases.claims.get(job_id)) is not None:
                stale.lose()
            await asyncio.wait([earlier])
        claim = self.leases.take(job_id, job.attempt, job.crashes, job.service_class)
        try:
            await self.run_job(job_id, job.queued_ms)
        except TRANSIENT as error:  # arq's own first commands
            logger.warning("job %s: %r; handing it back", job_id, error)
        finally:
            if self.leases.claims.get(job_id) is claim:
                await self.leases.release(claim, "hand_back")

    async def finish_job(self, job_id: str, finish: bool, *unused: Any) -> None:
        """arq ends a job here: done if its log is closed, else given to others."""
        claim = self.leases.claims[job_id]
        if finish and not claim.is_over and not claim.is_lost:
            await self._close(claim, Failure("internal_error", INTERNAL_ERROR))
        await self.leases.release(claim, _ending(claim))

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        """arq gives a job up here without calling `generate`: its client must hear of it."""
        claim = self.leases.claims[job_id]
        failure = await self._why_given_up(job_id)
        logger.warning("job %s: %s", job_id, failure.code)
        is_dead = failure.code == "too_many_attempts"
        await self._close(claim, failure, self.service.config.dead_ttl_s if is_dead else 0)
        await self.leases.release(claim, _ending(claim))

    async def _why_given_up(self, job_id: str) -> Failure:
        record, tries = await self.pool.mget(ARQ_JOB_PREFIX + job_id, arq_retry_key(job_id))
        if record is None:
            return Failure("job_expired", "The request waited too long and was given up.")
        if int(tries or 0) > MAX_TRIES:
            return Failure(
                "too_many_attempts",
                f"Request {job_id} was given up after {MAX_TRIES} attempts, under each of which a "
                "worker died, and was set aside; an operator can retry it.",
            )
        return Failure("unreadable_job", "The request's record cannot be read by this version.")

    async def _close(self, claim: Claim, failure: Failure, dead_ttl_s: int = 0) -> None:
        opened = await begin(self.service, claim)
        if opened is not None:
            await close_attempt(self.service.token_log, claim, opened, failure, dead_ttl_s)


def _ending(claim: Claim) -> Ending:
    """How to release it. Only what has its last word in Redis is over."""
    if claim.is_over:
        return "dead" if claim.ending == "dead" else "done"
    return "crashed" if claim.ending == "dead" else claim.ending


def max_jobs(max_seqs: int) -> int:
    """The engine's capacity and a little more."""
    return max_seqs + max(1, int(max_seqs * LOOKAHEAD))


async def _first_of(*waits: Coroutine[Any, Any, Any], timeout_s: float) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
