"""Writes token logs: all entries of an engine step in one script per API channel. Knows no engine.

A log is kept in memory as well, so an entry that Redis lost is written again from the cursor on; an
entry that was written but not confirmed comes back as `dup`; another attempt's log as `fenced`.
After an outage the leases are looked at first: what we have lost meanwhile is not written any more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from workers.contract import (
    Append,
    Event,
    api_channel,
    encode,
    encode_batch,
    encode_previous,
    is_terminal,
    num_events,
)
from workers.redis_link import MAX_BACKOFF_S, TRANSIENT, Scripts

logger = logging.getLogger(__name__)

MAX_PENDING = 20_000  # entries in memory that Redis has not confirmed; above it the engine waits
MAX_BATCH = 4_096  # entries of one script call, so that no call holds Redis for long
# The same for bytes: an entry of tokens has some hundred, one of vectors up to 64 kB.
MAX_PENDING_BYTES = 64 << 20
MAX_BATCH_BYTES = 4 << 20
FIRST_PAUSE_S = 0.02


class JobLog:
    """One job's log as this attempt knows it: all its entries and how many of them Redis has."""

    def __init__(self, job_id: str, home: str, entries: Iterable[bytes], offset: int) -> None:
        self.job_id = job_id
        self.channel = api_channel(home)
        self.entries = list(entries)
        self.confirmed = len(self.entries)
        self.offset = offset  # number of the next event
        self.is_over = False
        self.is_fenced = False
        self.result_ttl_s = 0  # how long it outlives its end; 0: the writer's setting
        self.on_fenced: Callable[[], None] | None = None
        self._settled: asyncio.Future[None] | None = None

    @property
    def is_settled(self) -> bool:
        """True when nothing is on its way."""
        return self.is_fenced or self.confirmed == len(self.entries)

    async def settled(self) -> bool:
        """Wait until every entry is durable; False if another attempt owns the log."""
        if not self.is_settled:
            if self._settled is None:
                self._settled = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._settled)
        return not self.is_fenced

    def fence(self) -> None:
        """Another attempt owns the log: nothing more leaves."""
        if not self.is_fenced:
            logger.warning("job %s: another attempt owns the log", self.job_id)
            self.is_fenced = True
            if self.on_fenced is not None:
                self.on_fenced()

    def note_progress(self) -> None:
        """Wake who waits for `settled`, if it is."""
        if self.is_settled and self._settled is not None:
            self._settled.set_result(None)
            self._settled = None


class TokenLog:
    """All logs of one worker. One flush is in flight; steps that end meanwhile leave together.

    `recheck` is awaited after a write that failed, before the next one: it renews the leases, tells
    `forget` of the jobs that are lost, and raises TRANSIENT while Redis is away.
    """

    def __init__(
        self, scripts: Scripts, *, job_ttl_s: int, result_ttl_s: int, max_pending: int = MAX_PENDING
    ) -> None:
        self.recheck: Callable[[], Awaitable[None]] | None = None
        self._scripts = scripts
        self._job_ttl_s = job_ttl_s
        self._result_ttl_s = result_ttl_s
        self._max_pending = max_pending
        self._num_pending = 0
        self._bytes_pending = 0
        self._waiting: dict[JobLog, None] = {}
        self._kick = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def has_room(self) -> bool:
        """False above the high-water mark: take no jobs and read no steps."""
        return self._room.is_set()

    async def room(self) -> None:
        """Wait until there is room."""
        await self._room.wait()

    def append(self, log: JobLog, event: Event) -> None:
        """Add an entry whose offset is `log.offset`. It leaves with the next `flush`."""
        assert not log.is_over
        if log.is_fenced:
            return
        log.entries.append(encode(event))
        log.offset += num_events(event)
        log.is_over = is_terminal(event)
        self._waiting[log] = None
        self._num_pending += 1
        self._bytes_pending += len(log.entries[-1])
        if not self._is_below_mark:
            self._room.clear()

    @property
    def _is_below_mark(self) -> bool:
        return self._num_pending < self._max_pending and self._bytes_pending < MAX_PENDING_BYTES

    def forget(self, log: JobLog) -> None:
        """Drop what has not left yet: another attempt owns the log."""
        log.is_fenced = True
        self._confirm(log, log.confirmed)

    def flush(self) -> None:
        """Send what was appended. Returns at once; `JobLog.settled` tells when it is durable."""
        self._kick.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            while self._waiting:
                await self._flush_once()

    async def _flush_once(self) -> None:
        channels: dict[str, list[JobLog]] = {}
        for log in self._waiting:
            channels.setdefault(log.channel, []).append(log)
        self._waiting = {}
        if len(channels) == 1:
            ((channel, logs),) = channels.items()
            await self._write(channel, logs)
        else:
            async with asyncio.TaskGroup() as group:
                for channel, logs in channels.items():
                    group.create_task(self._write(channel, logs))

    async def _write(self, channel: str, logs: list[JobLog]) -> None:
        """Write until Redis has answered, however long it is away."""
        while logs := [log for log in logs if not log.is_fenced]:
            try:
                await self._write_once(channel, logs)
                return
            except TRANSIENT:
                await self._outage()

    async def _outage(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            with contextlib.suppress(*TRANSIENT):
                if self.recheck is not None:
                    await self.recheck()
                return
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    async def _write_once(self, channel: str, logs: list[JobLog]) -> None:
        appends, sent = self._collect(logs)
        if not appends:
            return
        previous = {log.job_id: log.entries[log.confirmed - 1] for log in sent if log.confirmed}
        args = [channel, encode_batch(appends), encode_previous(previous)]
        _, troubles = await self._scripts.run("step", args=args)
        lengths = self._judge(troubles, {log.job_id: log for log in sent})
        for log, upto in sent.items():
            self._confirm(log, min(upto, lengths.get(log.job_id, upto)))

    def _judge(self, troubles: Sequence[bytes | int], logs: dict[str, JobLog]) -> dict[str, int]:
        """Read the step script's complaints: mark fenced logs, return the lengths of short ones."""
        lengths: dict[str, int] = {}
        for at in range(0, len(troubles), 3):
            job, kind, length = troubles[at : at + 3]
            assert isinstance(job, bytes)
            assert isinstance(length, int)
            log = logs[job.decode()]
            if kind == b"gap":
                logger.warning("job %s: Redis lost the end of its log; writing it again", job)
                lengths[log.job_id] = length
            elif kind == b"fenced":
                log.fence()
        return lengths

    def _collect(self, logs: list[JobLog]) -> tuple[list[Append], dict[JobLog, int]]:
        """The next entries of each log, and the length each log then has."""
        appends: list[Append] = []
        sent: dict[JobLog, int] = {}
        left_bytes = MAX_BATCH_BYTES
        for log in logs:
            if log.is_settled:  # an earlier write took along what came after it began
                continue
            upto = _fitting(log, MAX_BATCH - len(appends), left_bytes)
            if upto == log.confirmed:  # the batch is full: next time
                self._waiting[log] = None
                continue
            for index in range(log.confirmed, upto):
                entry = log.entries[index]
                appends.append(Append(log.job_id, index, entry, self._ttl_s(log, index)))
                left_bytes -= len(entry)
            sent[log] = upto
        return appends, sent

    def _ttl_s(self, log: JobLog, index: int) -> int:
        if log.is_over and index == len(log.entries) - 1:
            return log.result_ttl_s or self._result_ttl_s
        return self._job_ttl_s if index == 0 else 0

    def _confirm(self, log: JobLog, length: int) -> None:
        """Redis has `length` entries of the log; it may be fewer than it had."""
        if log.is_fenced:
            self._waiting.pop(log, None)
            self._settle(log, len(log.entries))
        else:
            self._settle(log, length)
            if length < len(log.entries):
                self._waiting[log] = None
        log.note_progress()

    def _settle(self, log: JobLog, length: int) -> None:
        """The log's entries up to `length` are not pending any more, those behind it are."""
        before, log.confirmed = log.confirmed, length
        moved = log.entries[min(before, length) : max(before, length)]
        sign = 1 if length > before else -1
        self._num_pending -= sign * len(moved)
        self._bytes_pending -= sign * sum(map(len, moved))
        if self._is_below_mark:
            self._room.set()


def _fitting(log: JobLog, count: int, num_bytes: int) -> int:
    """The length of a log after a write of `count` entries that begin within `num_bytes`."""
    upto = log.confirmed
    while upto < min(len(log.entries), log.confirmed + count) and num_bytes > 0:
        num_bytes -= len(log.entries[upto])
        upto += 1
    return upto
