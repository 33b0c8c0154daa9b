"""What becomes of a batch's lines: a job's log in, a line of the output or error file out, once.

Knows no input file and no queue.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from api.batch.lines import output_line, unanswered_line
from api.batch.state import BatchState, Ending, OpenLine, decode_open
from api.batch.store import BatchStore, Record, job_id_of, open_key
from api.call import Call
from api.errors import ApiError
from api.schema.batch import LineError, LineResponse
from api.shape import answer_of
from workers import contract

logger = logging.getLogger(__name__)

_LOG_SLICE = 512  # entries read at a time
_UNANSWERED: Mapping[Ending, LineError] = {
    "cancelled": LineError(
        "batch_cancelled", "This request was not executed because the batch was cancelled."
    ),
    "expired": LineError(
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "failed": LineError(
        "batch_failed", "This request was not executed because the batch's input cannot be read."
    ),
}


class Survey(NamedTuple):
    """The lines of a batch whose ends are not noted: with a job, and without one."""

    running: dict[int, OpenLine]
    missing: dict[int, OpenLine]

    @property
    def num_open(self) -> int:
        """How many there are."""
        return len(self.running) + len(self.missing)


class BatchResults:
    """Notes how lines end. `window` is how many of a batch may run at a time."""

    def __init__(self, redis: Redis, call: Call, store: BatchStore, *, window: int) -> None:
        self._redis = redis
        self._call = call
        self._store = store
        self._window = window

    async def on_line(self, job: contract.Job) -> None:
        """Note the end of a job that is a line; may be called again."""
        await self._note(job.batch, job.line)

    async def survey(self, batch_id: str) -> Survey:
        """Look at all open lines, and note those that have ended unnoticed."""
        lines = await self._store.open_lines(batch_id)
        survey = Survey({}, {})
        for number, (has_job, has_ended) in (await self._look(batch_id, lines)).items():
            if has_ended:
                await self._note(batch_id, number)
            elif has_job:
                survey.running[number] = lines[number]
            else:
                survey.missing[number] = lines[number]
        return survey

    async def give_up(self, state: BatchState, number: int, line: OpenLine) -> None:
        """Note that an open line ends without an answer, as its batch does."""
        data = unanswered(state, number, line.custom_id)
        await self._record(state.batch.id, Record(number, data, is_answer=False))

    async def refuse(self, state: BatchState, number: int, line: OpenLine, error: ApiError) -> None:
        """Note that the endpoint refuses an open line."""
        data = refused(state.batch.id, number, line.custom_id, error)
        await self._record(state.batch.id, Record(number, data, is_answer=False))

    async def _look(
        self, batch_id: str, lines: Mapping[int, OpenLine]
    ) -> dict[int, tuple[bool, bool]]:
        async def look() -> list[bytes | int | None]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for number in lines:
                    job_id = job_id_of(batch_id, number)
                    pipe.exists(contract.job_key(job_id))
                    pipe.lindex(contract.log_key(job_id), -1)
                return await pipe.execute()

        replies = await self._call(look) if lines else []
        pairs = zip(replies[::2], replies[1::2], strict=True)
        return {
            number: (bool(exists), bool(exists) and _is_end(last))
            for number, (exists, last) in zip(lines, pairs, strict=True)
        }

    async def _note(self, batch_id: str, number: int) -> None:
        """Note a line's end; nothing if it has not ended, or if that was noted."""
        found = await self._call(lambda: self._read(batch_id, number))
        if found.line is None or found.spec is None:
            return
        custom_id = decode_open(found.line).custom_id
        try:
            record = await self._ended(batch_id, number, custom_id, found)
        except (contract.WireError, msgspec.MsgspecError) as error:
            logger.error("line %d of %s cannot be read: %s", number, batch_id, error)
            failure = ApiError("unreadable_job", "The answer cannot be read.")
            data = refused(batch_id, number, custom_id, failure)
            record = Record(number, data, is_answer=False)
        if record is not None:
            await self._record(batch_id, record)

    async def _record(self, batch_id: str, record: Record) -> None:
        await self._store.record(batch_id, record, window=self._window)

    async def _ended(
        self, batch_id: str, number: int, custom_id: str, found: "_Found"
    ) -> Record | None:
        """How the line's job ended; None if it has not."""
        assert found.spec is not None
        job = contract.decode_job(found.spec)
        answer = answer_of(job, (found.fingerprint or b"").decode())
        end: contract.Event | None = None
        async for events in self._log(job.id, found.entries):
            answer.add(events)
            end = events[-1]
        if isinstance(end, contract.Done):
            response = LineResponse(200, job.request_id, answer.response())
            data = output_line(batch_id, number, custom_id, response)
            return Record(number, data, is_answer=True, usage=end.usage)
        if isinstance(end, contract.Failed):
            return await self._failure(batch_id, number, custom_id, end)
        return None

    async def _failure(
        self, batch_id: str, number: int, custom_id: str, failed: contract.Failed
    ) -> Record | None:
        if failed.code == "cancelled":
            state = await self._store.state(batch_id)
            if state is None:
                return None
            if state.ending:
                return Record(number, unanswered(state, number, custom_id), is_answer=False)
        data = refused(batch_id, number, custom_id, ApiError.of(failed))
        return Record(number, data, is_answer=False)

    async def _read(self, batch_id: str, number: int) -> "_Found":
        job_id = job_id_of(batch_id, number)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(open_key(batch_id), str(number))
            pipe.hmget(contract.job_key(job_id), ["spec", "fingerprint"])
            pipe.lrange(contract.log_key(job_id), 0, _LOG_SLICE - 1)
            line, (spec, fingerprint), entries = await pipe.execute()
        return _Found(line, spec, fingerprint, entries)

    async def _log(self, job_id: str, entries: list[bytes]) -> AsyncIterator[list[contract.Event]]:
        """The events of a log that begins with `entries`."""
        key, start = contract.log_key(job_id), 0

        async def read() -> list[bytes]:
            more: list[bytes] = await self._redis.lrange(key, start, start + _LOG_SLICE - 1)  # type: ignore[misc]
            return more

        while entries:
            yield [contract.decode_event(entry) for entry in entries]
            start += len(entries)
            entries = await self._call(read) if len(entries) == _LOG_SLICE else []


class _Found(NamedTuple):
    """What Redis has of a line: that it is open, its job, and the beginning of the log."""

    line: bytes | None
    spec: bytes | None
    fingerprint: bytes | None
    entries: list[bytes]


def unanswered(state: BatchState, number: int, custom_id: str) -> bytes:
    """The error file's line for what a batch did not come to before it ended."""
    return unanswered_line(state.batch.id, number, custom_id, _UNANSWERED[state.ending])


def refused(batch_id: str, number: int, custom_id: str, error: ApiError) -> bytes:
    """The error file's line for what the endpoint answered with an error."""
    body = {"error": error.response().error}
    request_id = f"req_{job_id_of(batch_id, number)}"
    return output_line(batch_id, number, custom_id, LineResponse(error.status, request_id, body))


def _is_end(entry: bytes | int | None) -> bool:
    """True for a terminal entry, and for one that cannot be read: it will be told of as such."""
    if not isinstance(entry, bytes):
        return False
    try:
        return contract.is_terminal(contract.decode_event(entry))
    except msgspec.MsgspecError:
        return True
