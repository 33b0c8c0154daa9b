"""Jobs that crashed their engines and were given up: list them, start them again, forget them.

Knows Redis through the broker, no HTTP.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from api.broker import Broker
from api.errors import ApiError, ErrorBody
from workers import contract


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter. `died_at` is in seconds since 1970, `last_offset` the failure's event number:
    behind it the stream would go on.
    """

    id: str
    model: str
    tenant: str
    endpoint: str
    died_at: int
    attempts: int
    crashes: int
    error: ErrorBody
    last_offset: int


class DeadLetters:
    """The dead letters of all tenants. Started again, a job may take `ttl_s` anew."""

    def __init__(self, broker: Broker, ttl_s: int) -> None:
        self._broker = broker
        self._ttl_s = ttl_s
        self._retry_script = broker.redis.register_script(contract.load_script("retry"))

    async def newest(self, limit: int) -> list[DeadLetter]:
        """At most `limit`, the newest first; those that expired are dropped. Raises ApiError."""
        found = await self._broker.call(lambda: self._newest(limit))
        ids = [name.decode() for name, _ in found]
        records = await self._broker.call(lambda: self._read(ids)) if ids else []
        pairs = zip(found, records, strict=True)
        letters = {n.decode(): _letter(int(died_ms), *record) for (n, died_ms), record in pairs}
        await self._forget([job_id for job_id, letter in letters.items() if letter is None])
        return [letter for letter in letters.values() if letter is not None]

    async def retry(self, job_id: str) -> bool:
        """Start a job again behind what it has sent; False if it is no dead letter.

        Streams that are opened again go on where they ended. Raises ApiError.
        """
        ((spec, *_, entry),) = await self._broker.call(lambda: self._read([job_id]))
        failed = _failure(entry)
        if spec is None or failed is None:
            return False
        queue = contract.queue_key(contract.decode_job(spec).model)
        names = [
            contract.job_key(job_id),
            contract.log_key(job_id),
            contract.arq_job_key(job_id),
            contract.arq_retry_key(job_id),
            queue,
        ]
        args: list[str | int | bytes] = [
            job_id,
            entry,
            contract.encode(contract.Retried(failed.offset)),
            contract.encode_arq_job(job_id, time.time_ns() // 1_000_000),
            self._ttl_s * 1000,
            contract.wake_channel(queue),
        ]
        return bool(await self._broker.call(lambda: self._retry_script(names, args)))

    async def drop(self, job_id: str) -> bool:
        """Take a job off the list; its failure stays readable. False if it was not there."""
        return await self._forget([job_id]) == 1

    async def _forget(self, ids: Sequence[str]) -> int:
        if not ids:
            return 0

        async def forget() -> int:
            return int(await self._broker.redis.zrem(contract.DEAD_KEY, *ids))

        return await self._broker.call(forget)

    async def _newest(self, limit: int) -> Sequence[tuple[bytes, float]]:
        pairs: Sequence[tuple[bytes, float]] = await self._broker.redis.zrevrange(
            contract.DEAD_KEY, 0, limit - 1, withscores=True
        )
        return pairs

    async def _read(self, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Spec, attempts, crashes and last log entry of each."""
        async with self._broker.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(contract.job_key(job_id), ["spec", "attempts", "crashes"])
                pipe.lindex(contract.log_key(job_id), -1)
            replies = await pipe.execute()
        pairs = zip(replies[::2], replies[1::2], strict=True)
        return [(*record, entry) for record, entry in pairs]


def _letter(
    died_ms: int, spec: bytes | None, attempts: bytes, crashes: bytes, entry: bytes | None
) -> DeadLetter | None:
    failed = _failure(entry)
    if spec is None or failed is None:
        return None
    job = contract.decode_job(spec)
    return DeadLetter(
        id=job.id,
        model=job.model,
        tenant=job.tenant,
        endpoint=job.endpoint,
        died_at=died_ms // 1000,
        attempts=int(attempts or 0),
        crashes=int(crashes or 0),
        error=ApiError.of(failed).response().error,
        last_offset=failed.offset,
    )


def _failure(entry: bytes | None) -> contract.Failed | None:
    event = contract.decode_event(entry) if entry else None
    return event if isinstance(event, contract.Failed) else None
