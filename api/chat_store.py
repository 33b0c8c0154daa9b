"""Chat completions that were made with `store`: find, list, forget. Knows jobs and logs, no HTTP.

A stored completion is its job, which lives as long as the setting says; a tenant's are in an index.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple

import msgspec

from api.answer import Answer
from api.broker import Broker
from api.config import ApiConfig
from api.errors import ApiError
from api.schema.response import Completion
from workers import contract

MAX_STORED = 1000  # that a list goes through; older ones can still be read by their id
STORED = {"is_stored": True}  # the job's echo
_EXPIRED_FACTOR = 2  # an index outlives what is in it


class Wanted(NamedTuple):
    """Which completions a list is to have."""

    model: str | None
    metadata: Mapping[str, str]

    def has(self, job: contract.Job) -> bool:
        """True if the job's completion is one of them."""
        is_model = self.model is None or job.model == self.model
        return is_model and self.metadata.items() <= job.metadata.items()


class ChatStore:
    """The stored completions of all tenants; each sees its own."""

    def __init__(self, broker: Broker, config: ApiConfig) -> None:
        self._broker = broker
        self._ttl_ms = config.store_ttl_s * 1000
        self._index_ms = _EXPIRED_FACTOR * (config.store_ttl_s + config.job_ttl_s) * 1000

    def stored(self, job: contract.Job) -> contract.Job:
        """The job as one whose completion is kept."""
        return msgspec.structs.replace(job, echo=STORED, result_ttl_s=self._ttl_ms // 1000)

    async def note(self, job_id: str, tenant: str) -> None:
        """Put a completion that is about to be made into its tenant's index. Raises ApiError.

        Before its job, so that none is missed; what is refused after that is not there when the
        index is read, as what has expired.
        """
        key, now_ms = _index(tenant), time.time_ns() // 1_000_000
        async with self._broker.redis.pipeline() as pipe:
            pipe.zadd(key, {job_id: now_ms})
            pipe.zremrangebyscore(key, 0, now_ms - self._index_ms)
            pipe.zremrangebyrank(key, 0, -MAX_STORED - 1)
            pipe.pexpire(key, self._index_ms)
            await self._broker.call(pipe.execute)

    async def find(self, completion_id: str, tenant: str) -> Completion:
        """A stored completion that is complete. Raises ApiError `not_found`."""
        found = await self._find(completion_id, tenant)
        if found is None:
            what = f"There is no stored completion '{completion_id[:80]}'."
            raise ApiError("not_found", what)
        return await self._read(found)

    async def forget(self, completion_id: str, tenant: str) -> None:
        """Let nobody read it any more. Raises ApiError `not_found`."""
        await self.find(completion_id, tenant)
        await self._broker.forget(completion_id)
        redis = self._broker.redis
        await self._broker.call(lambda: redis.zrem(_index(tenant), completion_id))

    async def listed(
        self, tenant: str, wanted: Wanted, *, after: str | None, newest_first: bool
    ) -> AsyncGenerator[Completion, None]:
        """Those that are `wanted`, behind `after`. Raises ApiError."""
        redis = self._broker.redis
        names = await self._broker.call(
            lambda: redis.zrange(_index(tenant), 0, -1, desc=newest_first)
        )
        ids = [name.decode() for name in names]
        if after is not None:
            if after not in ids:
                raise ApiError("invalid_value", "'after' is no stored completion.", "after")
            ids = ids[ids.index(after) + 1 :]
        for completion_id in ids:
            job = await self._find(completion_id, tenant)
            if job is not None and wanted.has(job):
                yield await self._read(job)

    async def _find(self, completion_id: str, tenant: str) -> contract.Job | None:
        view = await self._broker.view(completion_id)
        if view is None or view.job.tenant != tenant or view.job.echo != STORED:
            return None
        is_chat = view.job.kind == "chat" and view.job.endpoint.endswith("/chat/completions")
        return view.job if is_chat and view.is_done else None

    async def _read(self, job: contract.Job) -> Completion:
        card = (await self._broker.directory()).card(job.model)
        answer = Answer(job, "" if card is None else card.fingerprint)
        answer.add(await self._broker.read_log(job.id))
        answer.check()
        return msgspec.structs.replace(answer.response(), metadata=job.metadata)


def _index(tenant: str) -> str:
    """ZSET: ids of a tenant's stored completions, by when they were asked for, in ms."""
    return f"stored:{tenant}"
