"""The API's side of Redis: enqueue, cancel, read logs, learn of the fleet. Knows no HTTP.

Every call that fails because Redis is away, full or loading raises ApiError `queue_unavailable`.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from api.admission import Accepted, Bounds, Terms, accepted, admission
from api.asker import Asker
from api.canceller import Cancel, Canceller
from api.chores import Chores
from api.config import ApiConfig
from api.delivery import Reader
from api.directory import Directory
from api.errors import ApiError
from api.estimate import check_length, estimated
from api.memory import MemoryGuard, full
from api.relay import LogSlice, Relay
from api.subscription import Subscription
from workers import contract
from workers.questions import REPLY

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_CONNECTIONS = 16  # managed Redis plans sell few
DIRECTORY_AGE_S = 1.0
SLICE = 256  # entries of one log that are read at a time
FORGET_S = 60  # how long the rest of a forgotten job stays, for its worker to settle its books
NO_TERMS = Terms()
CANCELLED = contract.Failed(0, "cancelled", "The request was cancelled.")
Whom = Literal["", "waiting", "unstarted"]  # "": whoever it is
_REFUSING = (OutOfMemoryError, ReadOnlyError)
_REFUSALS = ("MISCONF", "NOREPLICAS", "MASTERDOWN")  # cannot save, is alone
_AWAY = (ConnectionError, TimeoutError, BusyLoadingError, OSError)


class JobView(NamedTuple):
    """A job that exists: its record, and the number of its terminal event if it is over."""

    job: contract.Job
    last_number: int | None
    is_done: bool = False  # with an answer


class Broker:
    """One API process's connections to Redis.

    `start` and `close` belong to the server's lifespan.
    """

    def __init__(self, config: ApiConfig) -> None:
        self.api_id = uuid.uuid4().hex[:16]
        self.is_draining = False
        self._config = config
        self.redis: Redis = Redis.from_url(
            config.redis_url,
            socket_connect_timeout=config.redis_timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 20),
            retry_on_error=list(_AWAY),
        )
        self._enqueue_script, self._cancel_script, self._directory_script = (
            self.redis.register_script(contract.load_script(name))
            for name in ("enqueue", "cancel", "directory")
        )
        self._forget_script = self.redis.register_script(contract.load_script("forget"))
        self._bounds = Bounds(
            max_jobs=config.max_queue,
            max_tokens=config.max_queue_tokens,
            ttl_ms=config.job_ttl_s * 1000,
            idempotency_ttl_ms=config.idempotency_ttl_s * 1000,
        )
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self.relay = Relay(self._read_logs, config.ping_s)
        self.chores = Chores(self.redis, self.call)
        self.asker = Asker(self.redis, self.call, self.api_id)
        self._subscription = Subscription(config.redis_url, self._hear, self._hear_again)
        self._subscription.follow(contract.api_channel(self.api_id))
        self._subscription.follow(contract.CHORES_CHANNEL)
        self._canceller = Canceller(self._cancel)
        self._directory = Directory()
        self._directory_s = float("-inf")
        self._refresh: asyncio.Task[Directory] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

        self.memory = MemoryGuard(
            self.redis, self.call, config.redis_url, config.max_memory_fraction
        )

    async def start(self) -> None:
        """Begin to listen. Redis need not be there yet."""
        parts = (self._subscription, self.relay, self._canceller, self.chores)
        for run in (part.run for part in parts):
            self._keep(_restarting(run))

    async def close(self) -> None:
        """Send the cancels that wait, then stop listening and close the connections."""
        await self._canceller.settle(1.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.redis.aclose()

    def _hear(self, message: bytes) -> None:
        if message == contract.WAKE_UP:
            self.chores.wake()
        elif message.startswith(REPLY):
            self.asker.hear(message)
        else:
            self.relay.deliver(message)

    def _hear_again(self) -> None:
        """Messages may have been missed."""
        self.relay.reread_all()
        self.chores.wake()

    def open(self, reader: Reader, home: str) -> None:
        """Deliver a job's events to `reader` until `release`.

        Raises ApiError when there are too many readers, or when the process stops.
        """
        if self.is_draining:
            raise ApiError("draining", "This server is shutting down; try again.")
        if self.relay.num_readers >= self._config.max_streams:
            raise ApiError("too_many_streams", "This server follows as many requests as it can.")
        if home != self.api_id:
            self._subscription.follow(contract.api_channel(home))
        self.relay.add(reader)

    def release(self, reader: Reader, home: str) -> None:
        """Deliver no more."""
        self.relay.remove(reader)
        if home != self.api_id:
            self._subscription.unfollow(contract.api_channel(home))

    async def enqueue(self, job: contract.Job, queue: str, terms: Terms = NO_TERMS) -> Accepted:
        """Hand a job to the workers of `queue`. Raises ApiError."""
        await self.memory.check()
        card = self._directory.card(job.model)
        if card is not None:
            check_length(job, card.context_length)
        job = estimated(job, None if card is None else card.context_length)
        keys = [
            contract.job_key(job.id),
            contract.arq_job_key(job.id),
            contract.log_key(job.id),
            queue,
            contract.idempotency_key(job.tenant, terms.idempotency_key),
            contract.limit_key(job.tenant),
        ]
        asked = admission(job, queue, terms, self._bounds)
        args = [
            contract.encode(job),
            contract.encode_arq_job(job.id, time.time_ns() // 1_000_000),
            contract.encode(asked),
        ]
        try:
            reply = await self.call(lambda: self._enqueue_script(keys=keys, args=args))
        except ApiError as error:
            if isinstance(error.__cause__, OutOfMemoryError):
                raise full() from error
            raise
        return accepted(job.id, reply)

    def cancel_soon(self, job: contract.Job, queue: str, *, whoever_reads: bool = False) -> None:
        """Give a job up, in the background, unless somebody else here reads it."""
        if whoever_reads or not self.relay.has_readers(job.id):
            self._canceller.put(Cancel(job.id, job.home, queue, job.result_ttl_s))

    async def cancel(self, job: contract.Job, queue: str) -> None:
        """Give a job up, whoever reads it; one that has ended stays as it is. Raises ApiError."""
        await self._cancel(Cancel(job.id, job.home, queue, job.result_ttl_s))

    async def end_waiting(
        self, job: contract.Job, queue: str, failed: contract.Failed, whom: Whom
    ) -> None:
        """End a job that waits with `failed`, whose number is found here; leave others alone.

        `unstarted`: not one that a worker has begun and given back, either. Raises ApiError.
        """
        cancel = Cancel(job.id, job.home, queue, job.result_ttl_s)
        await self._give_up(cancel, failed, whom)

    async def forget(self, job_id: str) -> None:
        """Make a job that has ended unreadable; unknown ones are ignored. Raises ApiError."""
        names = [contract.job_key(job_id), contract.log_key(job_id), contract.DEAD_KEY]
        args = [job_id, FORGET_S]
        await self.call(lambda: self._forget_script(keys=names, args=args))

    async def read_log(self, job_id: str) -> list[contract.Event]:
        """What a job's log holds at this moment, without fences. Raises ApiError."""
        events: list[contract.Event] = []
        start, is_cut = 0, True
        while is_cut:
            ((entries, _, is_cut),) = await self._read_logs([(job_id, start)])
            start += len(entries)
            events.extend(map(contract.decode_event, entries))
        return [event for event in events if not isinstance(event, contract.Fence)]

    async def view(self, job_id: str) -> JobView | None:
        """A job's record, None if there is none.

        Raises ApiError, also for a record that cannot be read.
        """
        spec, entry = await self.call(lambda: self._read_view(job_id))
        if spec is None:
            return None
        try:
            job = contract.decode_job(spec)
        except contract.WireError as error:
            raise ApiError("internal_error", str(error)) from error
        event = contract.decode_event(entry) if entry else None
        last = event.offset if isinstance(event, _TERMINAL) else None
        return JobView(job, last, isinstance(event, contract.Done))

    async def directory(self, max_age_s: float = DIRECTORY_AGE_S) -> Directory:
        """The fleet, at most `max_age_s` old; callers that come together share one look."""
        if self._directory.cards and time.monotonic() - self._directory_s < max_age_s:
            return self._directory
        if self._refresh is None:
            self._refresh = self._keep(self._look())
        return await asyncio.shield(self._refresh)

    async def _look(self) -> Directory:
        try:
            keys = [contract.WORKERS_KEY, contract.MODELS_KEY, contract.MODELS_SEEN_KEY]
            args = [self._config.model_grace_s]
            cards, beats = await self.call(lambda: self._directory_script(keys=keys, args=args))
            self._directory = Directory(
                tuple(map(contract.decode_card, cards)),
                tuple(map(contract.decode_heartbeat, beats)),
            )
            self._directory_s = time.monotonic()
            return self._directory
        finally:
            self._refresh = None

    async def _read_view(self, job_id: str) -> list[bytes | None]:
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.hget(contract.job_key(job_id), "spec")
            pipe.lindex(contract.log_key(job_id), -1)
            return await pipe.execute()

    async def _read_logs(self, places: Sequence[tuple[str, int]]) -> list[LogSlice]:
        return await self.call(lambda: self._read_slices(places)) if places else []

    async def _read_slices(self, places: Sequence[tuple[str, int]]) -> list[LogSlice]:
        async with self.redis.pipeline(transaction=False) as pipe:
            for job_id, start in places:
                pipe.lrange(contract.log_key(job_id), start, start + SLICE - 1)
                pipe.exists(contract.job_key(job_id), contract.log_key(job_id))
            replies = await pipe.execute()
        return [
            LogSlice(entries, bool(num_keys), len(entries) == SLICE)
            for entries, num_keys in zip(replies[::2], replies[1::2], strict=True)
        ]

    async def _cancel(self, cancel: Cancel) -> None:
        await self._give_up(cancel, CANCELLED)

    async def _give_up(self, cancel: Cancel, failed: contract.Failed, whom: Whom = "") -> None:
        ttl_s = cancel.ttl_s or self._config.result_ttl_s
        keys = [
            contract.cancel_key(cancel.job_id),
            contract.job_key(cancel.job_id),
            contract.lease_key(cancel.job_id),
            contract.log_key(cancel.job_id),
            cancel.queue,
            contract.arq_job_key(cancel.job_id),
        ]
        channel = contract.api_channel(cancel.home)
        control = contract.control_channel(cancel.queue)
        args: list[str | int | bytes] = [cancel.job_id, control, ttl_s, contract.encode(failed)]
        args += [channel, contract.SCHEMA_VERSION, failed.code, whom]
        await self.call(lambda: self._cancel_script(keys=keys, args=args))

    async def call(self, command: Callable[[], Awaitable[T]]) -> T:
        """Run commands with one of the process's few connections. Raises ApiError."""
        try:
            async with asyncio.timeout(self._config.redis_timeout_s), self._slots:
                return await command()
        except _AWAY as error:
            raise ApiError("queue_unavailable", "The queue cannot be reached.") from error
        except ResponseError as error:
            if isinstance(error, _REFUSING) or str(error).startswith(_REFUSALS):
                raise ApiError("queue_unavailable", "The queue takes no jobs now.") from error
            raise

    def _keep(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it; if all left, asyncio need not complain


_TERMINAL = contract.Done | contract.Failed


async def _restarting(run: Callable[[], Awaitable[None]]) -> None:
    """Run for ever: a bug in one delivery must not silence all streams of the process."""
    while True:
        try:
            await run()
        except Exception:
            logger.exception("a background task failed; starting it again")
            await asyncio.sleep(1)
