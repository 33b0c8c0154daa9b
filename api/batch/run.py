"""Goes on with a batch from wherever it is: the handler of the chores `batch:{id}`.

A process may be killed anywhere in here: what is not in Redis is done again by the next. A line is
open in Redis before its job is in the queue, and its job's id is always the same, so nothing is
lost and nothing counts twice.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

from api.batch.end import BatchEnd, CancelJob
from api.batch.input import UNREADABLE, BatchInput, unreadable
from api.batch.jobs import Endpoint, Prepared
from api.batch.results import BatchResults
from api.batch.slice import Slice, Work, must_wait, prepare
from api.batch.state import BatchState, OpenLine, encode_errors
from api.batch.store import BatchStore
from api.errors import ApiError
from api.schema.batch import ENDED
from workers import contract

POLL_S = 5.0  # a batch that nobody woke is looked at so often
LEAVES = 7  # places of the queue that a tenant takes for each one that it leaves free
BUSY_S = 2.0  # so soon again when there was no room in the queue, or no worker

Enqueue = Callable[[contract.Job, str], Awaitable[object]]


class BatchRun:
    """One API process's part in running batches.

    At most `window` lines of a batch are in the queue, and none is put into a queue that has
    `max_queued` jobs: the rest of the queue is for those who wait for an answer. No tenant takes
    all of these places.
    """

    def __init__(
        self,
        store: BatchStore,
        source: BatchInput,
        results: BatchResults,
        end: BatchEnd,
        endpoints: Mapping[str, Endpoint],
        enqueue: Enqueue,
        cancel: CancelJob,
        *,
        window: int,
        max_queued: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._input = source
        self._results = results
        self._end = end
        self._endpoints = endpoints
        self._enqueue = enqueue
        self._cancel = cancel
        self._window = window
        self._max_queued = max_queued
        self._clock = clock

    async def handle(self, batch_id: str) -> float | None:
        """Go on; returns the seconds after which to be called again, None at the end.

        Raises ApiError while Redis is away.
        """
        while (state := await self._store.state(batch_id)) is not None:
            if state.status in ENDED:
                await self._end.tell(state)
                return None
            again_s = await self._step(state)
            if again_s > 0:
                return again_s
        return None

    async def _step(self, state: BatchState) -> float:
        """One step from one state towards the next; 0 if that may be reached."""
        if state.status in ("cancelling", "finalizing"):
            return await self._end.go_on(state)
        if self._clock() >= state.batch.expires_at:
            await self._expire(state)
        elif state.status == "validating":
            await self._input.check(state)
        else:
            return await self._run(state)
        return 0.0

    async def _expire(self, state: BatchState) -> None:
        fields: dict[str, str | int] = {"status": "finalizing", "ending": "expired"}
        if state.status == "validating":
            fields["total"] = 0  # nobody knows what is in the file
        await self._finalize(state, fields)

    async def _run(self, state: BatchState) -> float:
        try:
            again_s = await self._fill(state)
        except UNREADABLE as error:
            errors = encode_errors([unreadable(error)])
            await self._finalize(
                state, {"status": "finalizing", "ending": "failed", "errors": errors}
            )
            return 0.0
        after = await self._store.state(state.batch.id)
        if after is None or after.status != "in_progress":
            return 0.0
        if after.taken == after.total and not await self._store.open_lines(after.batch.id):
            await self._finalize(after, {"status": "finalizing"})
            return 0.0
        return again_s

    async def _finalize(self, state: BatchState, fields: Mapping[str, str | int | bytes]) -> None:
        await self._store.move(state, {**fields, "finalizing_at": int(self._clock())})

    async def _fill(self, state: BatchState) -> float:
        """Bring the queue up to the window; returns the seconds until it is worth another look."""
        survey = await self._results.survey(state.batch.id)
        if survey.missing and not await self._bring_back(state, survey.missing):
            return BUSY_S
        room = self._window - survey.num_open
        while room > 0 and state.taken < state.total:
            part = await self._take(state, room)
            if not await self._store.move(
                state, part.place, opened=part.opened, failed=part.failed
            ):
                return 0.0
            if not await self._enqueue_all(part) or part.is_cut:
                return BUSY_S
            room -= len(part.jobs)
            state = part.after
        return POLL_S

    async def _take(self, state: BatchState, room: int) -> Slice:
        """The next lines, as jobs and as errors; nothing is written."""
        part, rooms = Slice(state, room), _Rooms(self._store, self._max_queued, state.batch.tenant)
        async with aclosing(self._input.lines(state.batch, state.line, state.offset)) as lines:
            async for line in lines:
                if line.is_blank:
                    part.pass_over(line)
                    continue
                work = await prepare(self._endpoints, state.batch, line)
                part.is_cut = not (await rooms.has_one_for(work) and part.add(work))
                if part.is_cut or part.is_full:
                    break
        return part

    async def _enqueue_all(self, part: Slice) -> bool:
        """Put a slice's jobs into their queues; False if there is no room for some."""
        for (number, line), prepared in zip(part.opened.items(), part.jobs, strict=True):
            if not await self._put(part.after, number, line, prepared):
                return False
        await self._check_wanted(part.after, part.jobs)
        return True

    async def _bring_back(self, state: BatchState, missing: Mapping[int, OpenLine]) -> bool:
        """Enqueue open lines that have no job, as after a crash; False if there is no room."""
        first, last = min(missing), max(missing)
        lines = self._input.lines(state.batch, first, missing[first].offset)
        jobs: list[Prepared] = []
        async with aclosing(lines):
            async for line in lines:
                if line.number in missing:
                    work = await prepare(self._endpoints, state.batch, line)
                    if not await self._bring_one_back(state, missing[line.number], work):
                        return False
                    jobs += [work.result] if isinstance(work.result, Prepared) else []
                if line.number >= last:
                    break
        await self._check_wanted(state, jobs)
        return True

    async def _bring_one_back(self, state: BatchState, line: OpenLine, work: Work) -> bool:
        if isinstance(work.result, Prepared):
            return await self._put(state, work.line.number, line, work.result)
        if must_wait(work.result, work, state.model):
            return False
        await self._results.refuse(state, work.line.number, line, work.result)
        return True

    async def _put(
        self, state: BatchState, number: int, line: OpenLine, prepared: Prepared
    ) -> bool:
        try:
            await self._enqueue(prepared.job, prepared.queue)
        except ApiError as error:
            if error.status in (429, 503):
                return False
            await self._results.refuse(state, number, line, error)
        return True

    async def _check_wanted(self, state: BatchState, jobs: Sequence[Prepared]) -> None:
        """Give up what was enqueued for a batch that was given up in that moment."""
        now = await self._store.state(state.batch.id)
        if now is None or now.ending:
            for prepared in jobs:
                await self._cancel(prepared.job.id, prepared.queue)


class _Rooms:
    """How many of a tenant's jobs the queues have room for, each asked once.

    For every LEAVES places that a tenant has, it leaves one free: another one always finds some.
    """

    def __init__(self, store: BatchStore, most: int, tenant: str) -> None:
        self._store = store
        self._most = most
        self._tenant = tenant
        self._jobs: dict[str, tuple[int, int]] = {}  # in each queue: all, and the tenant's

    async def has_one_for(self, work: Work) -> bool:
        """Take a place for a line's job; False if there is none."""
        if isinstance(work.result, ApiError):
            return True
        queue = work.result.queue
        if queue not in self._jobs:
            self._jobs[queue] = await self._store.num_queued(queue, self._tenant)
        total, own = self._jobs[queue]
        self._jobs[queue] = total + 1, own + 1
        return total + own // LEAVES < self._most
