"""Batches in Redis: what each is, how far it is, and the moves between, each one script.

Knows no file's content and no job. Every call may raise ApiError `queue_unavailable`.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from api.admission import conflict
from api.batch.state import Batch, BatchState, OpenLine, decode_open, encode_errors, state_of
from api.call import Call
from api.errors import ApiError
from api.file_store import StoredFile, commit_args
from api.idempotency import NO_KEY, Once
from api.schema.batch import BatchError, BatchObject, Status
from workers import contract

KEPT_JOB_MS = 60_000  # how long a line's job outlives its place in the output
CHORE = "batch"  # kind of the chores that go on with a batch

_BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
_encode = msgspec.msgpack.Encoder().encode


class Page(NamedTuple):
    """Some of a tenant's batches, newest first."""

    batches: list[BatchObject]
    has_more: bool


class Record(NamedTuple):
    """How a line ended, for the files and the counts."""

    number: int
    line: bytes
    is_answer: bool
    usage: contract.Usage = contract.Usage(0, 0)


class EndFile(NamedTuple):
    """A list of lines that becomes a file: which, the batch's field for the id, and the record."""

    list: str
    field: str
    file: StoredFile


class BatchStore:
    """The batches of all tenants. An ended one is kept for `ttl_s`."""

    def __init__(self, redis: Redis, call: Call, *, ttl_s: int, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._call = call
        self._ttl_s = ttl_s
        self._clock = clock
        self._scripts = {
            name: redis.register_script(contract.load_script(f"batch_{name}"))
            for name in ("create", "ids", "move", "record", "cancel", "finish")
        }

    async def create(self, batch: Batch, once: Once = NO_KEY) -> str:
        """Begin a batch; returns its id, or that of the batch which the same request began before.

        Raises ApiError: `not_found` if its input file is gone, `idempotency_conflict`.
        """
        ttl_ms = (batch.expires_at - batch.created_at + self._ttl_s) * 1000
        created_ms = int(self._clock() * 1000)
        args = [batch.id, _encode(batch), batch.tenant, created_ms, ttl_ms, batch.input_file_id]
        done = await self._run("create", [*args, once.digest, once.ttl_ms], [once.record])
        if isinstance(done, bytes):
            return done.decode()
        if done == -1:
            raise conflict()
        if done == 0:
            what = f"There is no file '{batch.input_file_id}', or it has expired."
            raise ApiError("not_found", what, "input_file_id")
        return batch.id

    async def state(self, batch_id: str) -> BatchState | None:
        """How far a batch is; None if there is none."""
        found = await self._call(lambda: self._read([batch_id]))
        return found[0]

    async def page(self, tenant: str, *, limit: int, after: str | None) -> Page:
        """The tenant's batches behind `after`. Raises ApiError `not_found` for an unknown one."""
        start = 0
        if after is not None:
            key = batches_key(tenant)
            rank = await self._call(lambda: self._redis.zrevrank(key, after))
            if rank is None:
                raise missing(after, "after")
            start = rank + 1
        found: list[BatchObject] = []
        while len(found) <= limit:
            ids = await self._ids(tenant, start, limit + 1)
            states = await self._call(lambda ids=ids: self._read(ids)) if ids else []  # type: ignore[misc]
            found += [state.view() for state in states if state is not None]
            start += len(ids)
            if len(ids) <= limit:
                break
        return Page(found[:limit], len(found) > limit)

    async def cancel(self, batch_id: str) -> None:
        """Give a batch up, if it has not got so far that there is nothing to give up."""
        await self._run("cancel", [batch_id, int(self._clock())])

    async def note_ids(self, batch_id: str, ids: Sequence[tuple[str, int]]) -> list[int]:
        """Note the custom ids of lines; returns the lines whose id an earlier line has."""
        args: list[str | int] = [batch_id]
        for custom_id, number in ids:
            args += [custom_id, number]
        lines: list[int] = await self._run("ids", args) if ids else []
        return lines

    async def move(
        self,
        state: BatchState,
        fields: Mapping[str, str | int | bytes],
        *,
        opened: Mapping[int, OpenLine] | None = None,
        failed: Sequence[bytes] = (),
    ) -> bool:
        """Move a batch on from `state`; False if it is not there any more."""
        args: list[Any] = [state.batch.id, state.status, state.offset, len(fields)]
        for name, value in fields.items():
            args += [name, value]
        args.append(len(opened or {}))
        for number, line in (opened or {}).items():
            args += [number, _encode(line)]
        return bool(await self._run("move", [*args, *failed]))

    async def open_lines(self, batch_id: str) -> dict[int, OpenLine]:
        """The lines whose jobs have not ended, as far as is known."""
        lines = await self._call(lambda: _awaited(self._redis.hgetall(open_key(batch_id))))
        return {int(number): decode_open(data) for number, data in sorted(lines.items())}

    async def record(self, batch_id: str, record: Record, *, window: int) -> bool:
        """Note how a line ended; False if that was noted before."""
        job_id = job_id_of(batch_id, record.number)
        usage = record.usage
        # A failed job may be a dead letter, which an operator wants to see.
        kept_ms = KEPT_JOB_MS if record.is_answer else 0
        args = [
            *(batch_id, record.number, record.line, "completed" if record.is_answer else "failed"),
            *(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens),
            *(window, kept_ms),
        ]
        keys = [contract.job_key(job_id), contract.log_key(job_id)]
        return bool(await self._run("record", args, keys))

    async def finish(
        self,
        state: BatchState,
        status: Status,
        files: Sequence[EndFile] = (),
        errors: Sequence[BatchError] = (),
    ) -> bool:
        """End a batch; False if it has ended already."""
        batch = state.batch
        args: list[Any] = [batch.id, state.status, status, int(self._clock()), batch.tenant]
        args += [self._ttl_s * 1000, batch.input_file_id, encode_errors(errors) if errors else ""]
        for part in files:
            file_id, record, _, _, size, ttl_ms = commit_args(part.file)
            args += [part.list, part.field, file_id, record, size, ttl_ms]
        return bool(await self._run("finish", args))

    async def note_told(self, batch_id: str) -> None:
        """Remember that whoever has to know of the end was told."""
        key = batch_key(batch_id)
        await self._call(lambda: _awaited(self._redis.hset(key, "is_told", "1")))

    async def num_queued(self, queue: str, tenant: str) -> tuple[int, int]:
        """How many jobs of a model have not ended: all tenants', and this one's."""

        async def count() -> tuple[int, int]:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcard(queue)
                pipe.hget(contract.tenants_key(queue), tenant)
                total, own = await pipe.execute()
            return int(total), int(own or 0)

        return await self._call(count)

    async def _run(self, name: str, args: Sequence[Any], keys: Sequence[str] = ()) -> Any:
        script = self._scripts[name]
        return await self._call(lambda: script(keys=keys, args=args))

    async def _ids(self, tenant: str, start: int, count: int) -> list[str]:
        key = batches_key(tenant)
        end = start + count - 1
        ids = await self._call(lambda: self._redis.zrange(key, start, end, desc=True))
        return [batch_id.decode() for batch_id in ids]

    async def _read(self, ids: Sequence[str]) -> list[BatchState | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for batch_id in ids:
                pipe.hgetall(batch_key(batch_id))
            return [state_of(fields) for fields in await pipe.execute()]


async def _awaited(reply: Any) -> Any:
    """A reply that redis types as perhaps not awaitable."""
    return await reply


def new_batch_id() -> str:
    """An id in OpenAI's form."""
    return f"batch_{uuid.uuid4().hex}"


def is_batch_id(text: str) -> bool:
    """True for what `new_batch_id` makes: no other id may name a key of ours."""
    return _BATCH_ID.fullmatch(text) is not None


def job_id_of(batch_id: str, number: int) -> str:
    """The id of a line's job: always the same, so that enqueueing it twice does no harm."""
    return f"{batch_id}-{number}"


def missing(batch_id: str, param: str | None = None) -> ApiError:
    """The answer to an id that names no batch of the tenant."""
    return ApiError("not_found", f"There is no batch '{batch_id}', or it has expired.", param)


def batch_key(batch_id: str) -> str:
    """HASH: the batch."""
    return f"batch:{batch_id}"


def open_key(batch_id: str) -> str:
    """HASH: line -> OpenLine, for lines whose jobs have not ended."""
    return f"batch:{batch_id}:open"


def batches_key(tenant: str) -> str:
    """ZSET: ids of a tenant's batches by creation, in ms."""
    return f"batches:{tenant}"
